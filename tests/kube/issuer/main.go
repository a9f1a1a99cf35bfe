// An OpenID Connect provider over TLS: the example of Zitadel's certified library, whose ID tokens are good for a few seconds only.
//
//	issuer ADDRESS CERTIFICATE KEY SECONDS
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// The example's storage, in memory, with clients whose tokens are short-lived.
type shortLived struct {
	*storage.Storage
	lifetime time.Duration
}

func (s shortLived) GetClientByClientID(ctx context.Context, id string) (op.Client, error) {
	client, err := s.Storage.GetClientByClientID(ctx, id)
	if err != nil {
		return nil, err
	}
	return shortLivedClient{client, s.lifetime}, nil
}

type shortLivedClient struct {
	op.Client
	lifetime time.Duration
}

func (c shortLivedClient) IDTokenLifetime() time.Duration { return c.lifetime }

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) != 4 {
		return fmt.Errorf("usage: issuer ADDRESS CERTIFICATE KEY SECONDS")
	}
	address, certificate, key := arguments[0], arguments[1], arguments[2]
	lifetime, err := time.ParseDuration(arguments[3] + "s")
	if err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	issuer := "https://" + listener.Addr().String()
	storage.RegisterClients(storage.WebClient("devbox", "secret", "http://localhost/callback"))
	store := shortLived{storage.NewStorage(storage.NewUserStore(issuer)), lifetime}
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	server := http.Server{Handler: exampleop.SetupServer(issuer, store, logger, false)}
	fmt.Println(issuer)
	return server.Serve(tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{pair}}))
}
