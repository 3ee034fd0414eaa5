// Go's net/http as server, reverse proxy and client.
// Usage: http server LISTEN FILE | http proxy LISTEN TO | http client TO FILE
package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"sync"
)

func main() {
	verb, at, last := os.Args[1], os.Args[2], os.Args[3]
	switch verb {
	case "server":
		server(at, last)
	case "proxy":
		to, err := url.Parse("http://" + last)
		check(err)
		check(http.ListenAndServe(at, httputil.NewSingleHostReverseProxy(to)))
	case "client":
		client("http://"+at, last)
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func server(at, file string) {
	http.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, file) })
	http.HandleFunc("/sum", func(w http.ResponseWriter, r *http.Request) {
		hash := sha256.New()
		count, err := io.Copy(hash, r.Body)
		if err != nil {
			http.Error(w, err.Error(), 500)
			return
		}
		fmt.Fprintf(w, "%d %x", count, hash.Sum(nil))
	})
	http.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), 500)
			return
		}
		w.Write(body)
	})
	check(http.ListenAndServe(at, nil))
}

func client(base, file string) {
	body, err := os.ReadFile(file)
	check(err)
	sum := fmt.Sprintf("%d %x", len(body), sha256.Sum256(body))
	right := map[string]int{}
	var lock sync.Mutex
	var all sync.WaitGroup
	for worker := 0; worker < 4; worker++ {
		all.Add(1)
		go func() {
			defer all.Done()
			for i := 0; i < 10; i++ {
				part := body[:(i*len(body)+9)/10]
				down := get(http.Get(base + "/file"))
				up := get(http.Post(base+"/sum", "", bytes.NewReader(body)))
				back := get(http.Post(base+"/echo", "", io.NopCloser(bytes.NewReader(part))))
				lock.Lock()
				count(right, "down", bytes.Equal(down, body))
				count(right, "up", string(up) == sum)
				count(right, "back", bytes.Equal(back, part))
				lock.Unlock()
			}
		}()
	}
	all.Wait()
	fmt.Println(right, sum)
	if right["wrong down"]+right["wrong up"]+right["wrong back"] > 0 {
		os.Exit(1)
	}
}

func count(right map[string]int, name string, good bool) {
	if !good {
		name = "wrong " + name
	}
	right[name]++
}

func get(r *http.Response, err error) []byte {
	check(err)
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	check(err)
	return body
}
