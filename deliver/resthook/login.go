package resthook

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/carillon-fhir/carillon/deliver/internal/far"
)

// Basic is HTTP's basic authentication.
type Basic struct{ User, Password string }

// Authorize sets the header.
func (b Basic) Authorize(req *http.Request, _ *http.Client) (fresh bool, err error) {
	req.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(b.User+":"+b.Password)))
	return true, nil
}

// Refused does nothing: there is no other password.
func (b Basic) Refused(string) {}

// OAuth2 says how an access token is had: by the client credentials grant (RFC 6749 4.4), with a
// secret or with an assertion (RFC 7523, as SMART Backend Services has it).
type OAuth2 struct {
	TokenURL string
	ClientID string
	Secret   string     // or
	Key      *ClientKey // that signs the assertion
	Scopes   []string
	Audience string
}

// ClientKey is a private key that a token server knows the public half of.
type ClientKey struct{ jose.JSONWebKey }

// ReadClientKey reads a private key in PEM form: RSA of 2048 bits or more signs RS384, P-384 signs
// ES384 (SMART App Launch 2.2.0, client authentication: asymmetric). No id means its thumbprint.
func ReadClientKey(text []byte, id string) (*ClientKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("holds no key in PEM form")
	}
	key, err := parsePrivate(block.Bytes)
	if err != nil {
		return nil, err
	}
	k := &ClientKey{jose.JSONWebKey{Key: key, KeyID: id, Use: "sig"}}
	switch key := key.(type) {
	case *rsa.PrivateKey:
		if key.N.BitLen() < 2048 {
			return nil, errors.New("holds an RSA key of under 2048 bits")
		}
		k.Algorithm = string(jose.RS384)
	case *ecdsa.PrivateKey:
		if key.Curve != elliptic.P384() {
			return nil, errors.New("holds a key of another curve than P-384, which ES384 needs")
		}
		k.Algorithm = string(jose.ES384)
	default:
		return nil, errors.New("holds neither an RSA nor a P-384 key")
	}
	if id == "" {
		sum, err := k.Thumbprint(crypto.SHA256)
		if err != nil {
			return nil, fmt.Errorf("thumbprint of the key: %w", err)
		}
		k.KeyID = base64.RawURLEncoding.EncodeToString(sum)
	}
	return k, nil
}

func parsePrivate(der []byte) (any, error) {
	if key, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		return key, nil
	}
	if key, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return key, nil
	}
	if key, err := x509.ParseECPrivateKey(der); err == nil {
		return key, nil
	}
	return nil, errors.New("holds no private key that can be read; encrypted ones cannot")
}

// Times of access tokens.
const (
	fetchTimeout = 10 * time.Second
	// refreshAhead of its end a token is had anew, or at a tenth of a short life.
	refreshAhead = 30 * time.Second
	// unstatedLife is for a token whose server does not say how long it holds.
	unstatedLife = 5 * time.Minute
	// failurePause is how long a token server that failed is left alone.
	failurePause = 2 * time.Second
	// assertionLife is the most that SMART allows.
	assertionLife = 5 * time.Minute
)

// tokens is an OAuth2 login with the token that it has. One request for a token is made at a time,
// for all who wait.
type tokens struct {
	OAuth2
	now func() time.Time

	mu      sync.Mutex
	value   string // the whole header; empty if there is none
	until   time.Time
	refresh time.Time
	asking  chan struct{} // closed when the request under way has ended; nil if there is none
	failed  error
	again   time.Time // not before: the server has failed
}

// NewLogin is a Login by access tokens.
func (o OAuth2) NewLogin() Login { return &tokens{OAuth2: o, now: time.Now} }

func (t *tokens) Authorize(req *http.Request, client *http.Client) (fresh bool, err error) {
	for {
		t.mu.Lock()
		now := t.now()
		switch {
		case t.value != "" && now.Before(t.refresh), t.value != "" && now.Before(t.until) && (t.asking != nil || now.Before(t.again)):
			req.Header.Set("Authorization", t.value)
			t.mu.Unlock()
			return fresh, nil
		case t.asking == nil && now.Before(t.again):
			err := t.failed
			t.mu.Unlock()
			return false, err
		case t.asking == nil:
			t.asking = make(chan struct{})
			t.mu.Unlock()
			fresh = true
			if err := t.ask(req.Context(), client); err != nil && req.Context().Err() != nil {
				return false, err
			}
			continue
		}
		asking := t.asking
		t.mu.Unlock()
		select {
		case <-asking:
			fresh = true
		case <-req.Context().Done():
			return false, fmt.Errorf("%w: the token server gave no answer in time", errLogin)
		}
	}
}

// Refused drops the token, if it still is the one.
func (t *tokens) Refused(authorization string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.value == authorization {
		t.value = ""
	}
}

// ask has a token, for this request and all others that wait. If the request ends first another
// one asks in its place.
func (t *tokens) ask(ctx context.Context, client *http.Client) error {
	bounded, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	token, err := t.fetch(context.WithValue(bounded, oauth2.HTTPClient, client))
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.asking)
	t.asking = nil
	now := t.now()
	if err != nil {
		if err = tokenText(err); ctx.Err() == nil {
			t.failed, t.again = err, now.Add(failurePause)
		}
		return err
	}
	life := unstatedLife
	if !token.Expiry.IsZero() {
		life = max(time.Until(token.Expiry), time.Second)
	}
	t.value, t.until, t.refresh = token.Type()+" "+token.AccessToken, now.Add(life), now.Add(life-min(refreshAhead, life/10))
	t.failed, t.again = nil, time.Time{}
	return nil
}

func (t *tokens) fetch(ctx context.Context) (*oauth2.Token, error) {
	c := clientcredentials.Config{
		ClientID: t.ClientID, ClientSecret: t.Secret, TokenURL: t.TokenURL, Scopes: t.Scopes, EndpointParams: url.Values{},
	}
	if t.Audience != "" {
		c.EndpointParams.Set("audience", t.Audience)
	}
	if t.Key != nil {
		assertion, err := t.assertion()
		if err != nil {
			return nil, err
		}
		c.AuthStyle = oauth2.AuthStyleInParams
		c.EndpointParams.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
		c.EndpointParams.Set("client_assertion", assertion)
	}
	return c.Token(ctx)
}

func (t *tokens) assertion() (string, error) {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(t.Key.Algorithm), Key: t.Key.JSONWebKey}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", err
	}
	now := t.now()
	return jwt.Signed(signer).Claims(jwt.Claims{
		Issuer: t.ClientID, Subject: t.ClientID, Audience: jwt.Audience{t.TokenURL}, ID: rand.Text(),
		IssuedAt: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(assertionLife)),
	}).Serialize()
}

// tokenErrors are what RFC 6749 5.2 lets a token server say. Anything else that it says is not
// repeated.
var tokenErrors = []string{"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type", "invalid_scope"}

// tokenText says what is wrong without a word of the server's own.
func tokenText(err error) error {
	var refused *oauth2.RetrieveError
	switch {
	case errors.As(err, &refused) && refused.Response != nil:
		text := fmt.Sprintf("the token server answered %d", refused.Response.StatusCode)
		if slices.Contains(tokenErrors, refused.ErrorCode) {
			text += " " + refused.ErrorCode
		}
		return fmt.Errorf("%w: %s", errLogin, text)
	case errors.Is(err, errBlocked):
		return fmt.Errorf("%w: the token server's address is not allowed", errLogin)
	case far.TimedOut(err):
		return fmt.Errorf("%w: the token server gave no answer in time", errLogin)
	case isTLS(err):
		return fmt.Errorf("%w: the token server: %w", errLogin, tlsText(err))
	}
	var fault *proxyError
	if errors.As(err, &fault) {
		return fmt.Errorf("%w: %w", errLogin, fault)
	}
	return fmt.Errorf("%w: the token server gave no token", errLogin)
}

// ClientKeys are the public halves of the keys that assertions are signed with.
func (c *Channel) ClientKeys() []jose.JSONWebKey {
	var keys []jose.JSONWebKey
	for _, r := range c.way.Load().settings.Rules {
		if t, ok := r.Login.(*tokens); ok && t.Key != nil {
			keys = append(keys, t.Key.Public())
		}
	}
	return keys
}

// PublicKey is the public half of a key for signatures, as a JWKS shows it: named by its thumbprint
// (RFC 7638).
func PublicKey(private ed25519.PrivateKey) jose.JSONWebKey {
	k := jose.JSONWebKey{Key: private.Public(), Use: "sig", Algorithm: string(jose.EdDSA)}
	if sum, err := k.Thumbprint(crypto.SHA256); err == nil { // it is of a known type, so there is one
		k.KeyID = base64.RawURLEncoding.EncodeToString(sum)
	}
	return k
}
