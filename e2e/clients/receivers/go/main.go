// Receiver takes notifications, each once.
package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

func main() {
	key, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(os.Getenv("WEBHOOK_SECRET"), "whsec_"))
	var seen sync.Map // yours is a table with a unique column, written in the transaction of your work
	receive := func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64<<20))
		name, at := r.Header.Get("webhook-id"), r.Header.Get("webhook-timestamp")
		mac := hmac.New(sha256.New, key)
		fmt.Fprintf(mac, "%s.%s.%s", name, at, body)
		want := []byte("v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)))
		signed := slices.ContainsFunc(strings.Fields(r.Header.Get("webhook-signature")), func(s string) bool { return hmac.Equal([]byte(s), want) })
		seconds, _ := strconv.ParseInt(at, 10, 64)
		if err != nil || !signed || time.Since(time.Unix(seconds, 0)).Abs() > 5*time.Minute {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if _, repeated := seen.LoadOrStore(name, true); !repeated {
			fmt.Println(r.Method, r.URL, string(body)) // your work
		}
		w.WriteHeader(http.StatusNoContent)
	}
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), http.HandlerFunc(receive)))
}
