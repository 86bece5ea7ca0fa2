package seal

import (
	"crypto/cipher"
	"crypto/rand"
	"encoding/hex"
	"fmt"
)

// Ring holds master keys: the first wraps, each unwraps. The nil Ring has none.
type Ring struct{ keys []master }

type master struct {
	id  string
	box cipher.AEAD
}

// NewRing makes a Ring of the material of its keys, each Size bytes.
func NewRing(keys [][]byte) (*Ring, error) {
	r := &Ring{}
	for _, material := range keys {
		if len(material) != Size {
			return nil, fmt.Errorf("a master key has %d bytes, must have %d", len(material), Size)
		}
		box, err := newBox(derive(material, "carillon wrap"))
		if err != nil {
			return nil, err
		}
		// The name of a key tells nothing of it.
		r.keys = append(r.keys, master{hex.EncodeToString(derive(material, "carillon id")[:4]), box})
	}
	return r, nil
}

// First is the id of the key that wraps; empty where there is none.
func (r *Ring) First() string {
	if r == nil || len(r.keys) == 0 {
		return ""
	}
	return r.keys[0].id
}

// Wrapped is a key as it may be kept.
type Wrapped struct {
	Master string `json:"master"` // id of the master key
	Box    []byte `json:"box"`
}

// MissingKeyError says that a key is wrapped by a master key that the ring has not got.
type MissingKeyError struct{ Master string }

// Error names the master key.
func (e *MissingKeyError) Error() string {
	return fmt.Sprintf("it is wrapped by the master key %s, which is not among those of security.secrets_key", e.Master)
}

// Wrap encrypts a key that stands under a name, by the first master key.
func (r *Ring) Wrap(key []byte, name string) (Wrapped, error) {
	if r.First() == "" {
		return Wrapped{}, fmt.Errorf("there is no master key to wrap with")
	}
	m := r.keys[0]
	nonce := make([]byte, nonceSize)
	rand.Read(nonce)
	return Wrapped{Master: m.id, Box: m.box.Seal(nonce, nonce, key, []byte(name))}, nil
}

// Unwrap gives back a key: a *MissingKeyError where its master key is not here, ErrForged where
// it was changed, or stands under another name.
func (r *Ring) Unwrap(w Wrapped, name string) ([]byte, error) {
	if r != nil {
		for _, m := range r.keys {
			if m.id != w.Master {
				continue
			}
			if len(w.Box) < nonceSize {
				return nil, ErrForged
			}
			key, err := m.box.Open(nil, w.Box[:nonceSize], w.Box[nonceSize:], []byte(name))
			if err != nil {
				return nil, ErrForged
			}
			return key, nil
		}
	}
	return nil, &MissingKeyError{w.Master}
}
