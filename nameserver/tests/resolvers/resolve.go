// Go's own resolver, without the C library.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sort"
	"strings"
)

func main() {
	server := os.Args[1]
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, server)
	}}
	ctx := context.Background()
	check := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	for _, name := range []string{"api.devbox.test", "v4.devbox.test"} {
		found, err := resolver.LookupHost(ctx, name+".")
		check(err)
		sort.Strings(found)
		fmt.Println(name, strings.Join(found, " "))
	}
	many, err := resolver.LookupHost(ctx, "many.devbox.test.")
	check(err)
	fmt.Println("many.devbox.test", len(many))
	_, services, err := resolver.LookupSRV(ctx, "pg", "tcp", "devbox.test.")
	check(err)
	fmt.Printf("srv %s:%d\n", strings.TrimSuffix(services[0].Target, "."), services[0].Port)
	texts, err := resolver.LookupTXT(ctx, "_pg._tcp.devbox.test.")
	check(err)
	fmt.Println("txt", texts[0])
	names, err := resolver.LookupAddr(ctx, "127.77.0.4")
	check(err)
	fmt.Println("ptr", strings.TrimSuffix(names[0], "."))
	_, err = resolver.LookupHost(ctx, "nobody.devbox.test.")
	var missing *net.DNSError
	if errors.As(err, &missing) && missing.IsNotFound {
		fmt.Println("nobody.devbox.test none")
	}
}
