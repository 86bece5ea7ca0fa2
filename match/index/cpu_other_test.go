//go:build !linux

package index_test

import "time"

func cpu() time.Duration { return 0 }
