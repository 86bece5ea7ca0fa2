package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// Size is the length of every key, in bytes.
const Size = 32

const nonceSize = 12

// Prefix begins every sealed text: sealed:1:{key}:{base64 of nonce and ciphertext}.
const Prefix = "sealed:1:"

// ErrForged says that a sealed text was not made by this key for this name, or was changed.
var ErrForged = errors.New("the sealed value was not made here, or was changed")

// Key seals the values of one Subscription. It is safe for concurrent use.
type Key struct {
	id    string
	box   cipher.AEAD
	nonce []byte // key of the hash that makes nonces
}

// NewMaterial makes the material of a new Key, and its id.
func NewMaterial() (id string, material []byte) {
	both := make([]byte, 8+Size)
	rand.Read(both)
	return hex.EncodeToString(both[:8]), both[8:]
}

// NewKey makes a Key of its material, which is Size bytes.
func NewKey(id string, material []byte) (*Key, error) {
	if len(material) != Size {
		return nil, fmt.Errorf("key %s has %d bytes, must have %d", id, len(material), Size)
	}
	box, err := newBox(derive(material, "carillon value"))
	if err != nil {
		return nil, err
	}
	return &Key{id: id, box: box, nonce: derive(material, "carillon nonce")}, nil
}

// ID is the id that sealed texts name.
func (k *Key) ID() string { return k.id }

// Seal makes the sealed text of a value that stands under a name.
func (k *Key) Seal(value, name string) string {
	nonce := k.synthetic(value, name)
	return Prefix + k.id + ":" + base64.RawURLEncoding.EncodeToString(k.box.Seal(nonce, nonce, []byte(value), []byte(name)))
}

// Open gives back the value of a sealed text.
func (k *Key) Open(text, name string) (string, error) {
	id, sealed, ok := split(text)
	if !ok || id != k.id {
		return "", ErrForged
	}
	raw, err := base64.RawURLEncoding.DecodeString(sealed)
	if err != nil || len(raw) < nonceSize {
		return "", ErrForged
	}
	value, err := k.box.Open(nil, raw[:nonceSize], raw[nonceSize:], []byte(name))
	if err != nil {
		return "", ErrForged
	}
	return string(value), nil
}

// synthetic is the nonce of a value under a name.
func (k *Key) synthetic(value, name string) []byte {
	h := hmac.New(sha256.New, k.nonce)
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(name))))
	h.Write([]byte(name))
	h.Write([]byte(value))
	return h.Sum(nil)[:nonceSize:nonceSize]
}

// IsSealed reports whether a text has the form of a sealed one.
func IsSealed(text string) bool { return strings.HasPrefix(text, Prefix) }

// KeyOf is the id of the key that a text was sealed by; empty if it is not sealed.
func KeyOf(text string) string {
	id, _, _ := split(text)
	return id
}

func split(text string) (id, sealed string, ok bool) {
	rest, ok := strings.CutPrefix(text, Prefix)
	if !ok {
		return "", "", false
	}
	return strings.Cut(rest, ":")
}

func newBox(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// derive makes a key for one purpose, so that no key serves two.
func derive(material []byte, purpose string) []byte {
	key, err := hkdf.Key(sha256.New, material, nil, purpose, Size)
	if err != nil {
		panic("seal: " + err.Error()) // of lengths alone, and they are constant
	}
	return key
}
