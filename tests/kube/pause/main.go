// A pod's first process: it keeps the pod's network alive, and does nothing else.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	// Containers of the pod do not share its process namespace, so there are no orphans to reap.
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGINT, syscall.SIGTERM)
	<-end
}
