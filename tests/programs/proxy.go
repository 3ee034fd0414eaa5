// A TCP proxy that copies with io.Copy, which splices between two connections.
// Usage: proxy LISTEN TO [LISTEN TO]...
package main

import (
	"io"
	"log"
	"net"
	"os"
)

func main() {
	for i := 1; i+1 < len(os.Args); i += 2 {
		listener, err := net.Listen("tcp", os.Args[i])
		if err != nil {
			log.Fatal(err)
		}
		go serve(listener, os.Args[i+1])
	}
	select {}
}

func serve(listener net.Listener, to string) {
	for {
		client, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go proxy(client.(*net.TCPConn), to)
	}
}

func proxy(client *net.TCPConn, to string) {
	defer client.Close()
	dialed, err := net.Dial("tcp", to)
	if err != nil {
		log.Print(err)
		return
	}
	server := dialed.(*net.TCPConn)
	defer server.Close()
	done := make(chan struct{})
	go func() {
		copyHalf(server, client)
		close(done)
	}()
	copyHalf(client, server)
	<-done
}

// Until the end of the stream, which goes on to the other side.
func copyHalf(to, from *net.TCPConn) {
	if _, err := io.Copy(to, from); err != nil {
		// The other half ends too.
		to.Close()
		from.Close()
		return
	}
	to.CloseWrite()
}
