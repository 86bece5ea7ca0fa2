package config

import (
	"net/url"
	"slices"
	"strings"
)

// AnyOrigin in security.origins is every web page there is.
const AnyOrigin = "*"

// origins looks whether browsers could send what is listed: one spelling in place of all that
// mean the same, since the header is compared as it comes (RFC 6454 6.2).
func (v *validation) origins() {
	const key = "security.origins"
	list := v.cfg.Security.Origins
	if slices.Contains(list, AnyOrigin) && len(list) > 1 {
		v.refuse(key, "%q is every origin and stands alone", AnyOrigin)
	}
	for _, text := range list {
		if text == AnyOrigin {
			continue
		}
		switch origin, ok := asOrigin(text); {
		case strings.Contains(text, "@"): // not shown: it may hold a password
			v.refuse(key, "an origin has no user and no password; write it as scheme and host, such as https://app.example.org")
		case !ok:
			v.refuse(key, "%q is no origin; write it as scheme and host, such as https://app.example.org", text)
		case origin != text:
			v.refuse(key, "%q is not how browsers write it; say %s", text, origin)
		}
	}
}

// asOrigin is the origin of a URL as browsers write it, if the text is the URL of a site.
func asOrigin(text string) (string, bool) {
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Contains(u.Host, "*") {
		return "", false
	}
	if u.Scheme != "http" && u.Scheme != "https" || strings.Trim(u.Path, "/") != "" {
		return "", false
	}
	host := strings.ToLower(u.Host)
	host = strings.TrimSuffix(host, map[string]string{"http": ":80", "https": ":443"}[u.Scheme])
	return u.Scheme + "://" + host, true
}
