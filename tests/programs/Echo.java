// Requests and their echoes: four bytes of length, then the bytes. By channels and a selector (nio) or
// by blocking sockets; `timeout` connects with a time limit, for which Java makes the socket
// non-blocking until it is connected.
// Usage: Echo nio-server|blocking-server LISTEN | Echo nio|blocking|timeout TO
import java.io.*;
import java.net.*;
import java.nio.ByteBuffer;
import java.nio.channels.*;
import java.util.*;

public class Echo {
    static final int[] SIZES = {0, 1, 100, 1_000, 16_000, 100_000, 1_000_000, 5_000_000};
    static final int ROUNDS = 5, CLIENTS = 4;

    public static void main(String[] args) throws Exception {
        String[] at = args[1].split(":");
        InetSocketAddress address = new InetSocketAddress(at[0], Integer.parseInt(at[1]));
        switch (args[0]) {
            case "nio-server" -> nioServer(address);
            case "blocking-server" -> blockingServer(address);
            case "nio" -> nioClients(address);
            default -> blockingClients(address, args[0].equals("timeout"));
        }
    }

    static byte[] request(int client, int round, int size) {
        byte[] bytes = new byte[4 + size];
        ByteBuffer.wrap(bytes).putInt(size);
        Random random = new Random(client * 1_000_003L + round * 31L + size);
        byte[] body = new byte[size];
        random.nextBytes(body);
        System.arraycopy(body, 0, bytes, 4, size);
        return bytes;
    }

    static void report(long echoes, long bytes) {
        System.out.println(echoes + " echoes, " + bytes + " bytes, all equal");
    }

    // A connection that reads a request, then writes it back, as far as the socket takes it.
    static class Peer {
        final ByteBuffer head = ByteBuffer.allocate(4);
        ByteBuffer message;
    }

    static void nioServer(InetSocketAddress address) throws IOException {
        Selector selector = Selector.open();
        ServerSocketChannel listener = ServerSocketChannel.open();
        listener.configureBlocking(false);
        listener.bind(address);
        listener.register(selector, SelectionKey.OP_ACCEPT);
        while (true) {
            selector.select();
            for (Iterator<SelectionKey> keys = selector.selectedKeys().iterator(); keys.hasNext(); ) {
                SelectionKey key = keys.next();
                keys.remove();
                if (key.isAcceptable()) {
                    SocketChannel channel = listener.accept();
                    channel.configureBlocking(false);
                    channel.register(selector, SelectionKey.OP_READ, new Peer());
                } else if (!serve(key)) {
                    key.channel().close();
                }
            }
        }
    }

    // False: the stream has ended.
    static boolean serve(SelectionKey key) throws IOException {
        SocketChannel channel = (SocketChannel) key.channel();
        Peer peer = (Peer) key.attachment();
        if (key.isReadable()) {
            ByteBuffer into = peer.message == null ? peer.head : peer.message;
            if (channel.read(into) < 0) return false;
            if (peer.message == null && !peer.head.hasRemaining()) {
                peer.head.flip();
                int size = peer.head.getInt();
                peer.message = ByteBuffer.allocate(4 + size).putInt(size);
                peer.head.clear();
            }
            if (peer.message == null || peer.message.hasRemaining()) return true;
            peer.message.flip();
            key.interestOps(SelectionKey.OP_WRITE);
        }
        channel.write(peer.message);
        if (!peer.message.hasRemaining()) {
            peer.message = null;
            key.interestOps(SelectionKey.OP_READ);
        }
        return true;
    }

    static class Client {
        final Deque<byte[]> requests = new ArrayDeque<>();
        ByteBuffer out, in;

        boolean next() {
            if (requests.isEmpty()) return false;
            out = ByteBuffer.wrap(requests.poll());
            in = ByteBuffer.allocate(out.capacity());
            return true;
        }
    }

    static void nioClients(InetSocketAddress address) throws IOException {
        Selector selector = Selector.open();
        long echoes = 0, bytes = 0;
        for (int i = 0; i < CLIENTS; i++) {
            SocketChannel channel = SocketChannel.open();
            channel.configureBlocking(false);
            Client client = new Client();
            for (int round = 0; round < ROUNDS; round++)
                for (int size : SIZES) client.requests.add(request(i, round, size));
            client.next();
            channel.register(selector, SelectionKey.OP_CONNECT, client);
            channel.connect(address);
        }
        while (!selector.keys().isEmpty()) {
            selector.select();
            for (Iterator<SelectionKey> keys = selector.selectedKeys().iterator(); keys.hasNext(); ) {
                SelectionKey key = keys.next();
                keys.remove();
                SocketChannel channel = (SocketChannel) key.channel();
                Client client = (Client) key.attachment();
                if (key.isConnectable()) {
                    channel.finishConnect();
                    key.interestOps(SelectionKey.OP_READ | SelectionKey.OP_WRITE);
                    continue;
                }
                if (key.isWritable()) channel.write(client.out);
                if (key.isReadable() && channel.read(client.in) < 0) throw new EOFException();
                int write = client.out.hasRemaining() ? SelectionKey.OP_WRITE : 0;
                key.interestOps(SelectionKey.OP_READ | write);
                if (client.in.hasRemaining()) continue;
                if (!Arrays.equals(client.in.array(), client.out.array())) throw new IOException("another answer");
                echoes++;
                bytes += client.in.capacity();
                if (client.next()) key.interestOps(SelectionKey.OP_READ | SelectionKey.OP_WRITE);
                else channel.close();
            }
            selector.selectNow();
        }
        report(echoes, bytes);
    }

    static void blockingServer(InetSocketAddress address) throws IOException {
        ServerSocket listener = new ServerSocket();
        listener.bind(address);
        while (true) {
            Socket socket = listener.accept();
            new Thread(() -> {
                try (socket) {
                    DataInputStream in = new DataInputStream(socket.getInputStream());
                    while (true) {
                        int size = in.readInt();
                        byte[] body = new byte[4 + size];
                        ByteBuffer.wrap(body).putInt(size);
                        in.readFully(body, 4, size);
                        socket.getOutputStream().write(body);
                    }
                } catch (IOException end) {
                }
            }).start();
        }
    }

    static void blockingClients(InetSocketAddress address, boolean timeout) throws IOException {
        long echoes = 0, bytes = 0;
        for (int i = 0; i < CLIENTS; i++) {
            Socket socket = new Socket();
            socket.setTcpNoDelay(true);
            if (timeout) socket.connect(address, 5_000);
            else socket.connect(address);
            DataInputStream in = new DataInputStream(socket.getInputStream());
            for (int round = 0; round < ROUNDS; round++) {
                for (int size : SIZES) {
                    byte[] request = request(i, round, size);
                    socket.getOutputStream().write(request);
                    byte[] answer = new byte[request.length];
                    in.readFully(answer);
                    if (!Arrays.equals(answer, request)) throw new IOException("another answer");
                    echoes++;
                    bytes += answer.length;
                }
            }
            socket.close();
        }
        report(echoes, bytes);
    }
}
