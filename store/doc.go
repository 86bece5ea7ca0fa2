// Package store is the projection of the logs.
package store
