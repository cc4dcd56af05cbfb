import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** What happens to a connection whose request line has come. Unless it says otherwise, the connection goes on to the engine. */
export type OnRequest = (line: string, client: Socket, engine: Socket) => void | 'taken' | Promise<void | 'taken'>;

/** Between a client and the Docker engine of this machine. */
export class EngineProxy implements AsyncDisposable {
  readonly #server: Server;
  readonly #sockets: Set<Socket>;
  readonly #directory: string | undefined;
  /** Value for `--docker-path`. */
  readonly address: string;

  private constructor(server: Server, sockets: Set<Socket>, directory: string | undefined, address: string) {
    this.#server = server;
    this.#sockets = sockets;
    this.#directory = directory;
    this.address = address;
  }

  /** @param at whether it listens on a socket of this machine, as the engine does, or on a port */
  static async start(at: 'unix' | 'tcp', onRequest: OnRequest = () => undefined): Promise<EngineProxy> {
    const sockets = new Set<Socket>();
    const server = createServer({ allowHalfOpen: true }, (client) => {
      const engine = connect({ path: '/var/run/docker.sock', allowHalfOpen: true });
      for (const [socket, other] of [[client, engine], [engine, client]] as const) {
        sockets.add(socket.on('error', () => other.destroy()).on('close', () => sockets.delete(socket)));
      } // prettier-ignore
      client.once('data', (head) => {
        client.pause();
        void (async () => {
          if ((await onRequest(head.toString('latin1').split('\r\n', 1)[0] ?? '', client, engine)) === 'taken') return;
          engine.write(head);
          client.pipe(engine).pipe(client);
        })();
      });
    });
    const directory = at === 'unix' ? await mkdtemp(join(tmpdir(), 'hpcs-engine-')) : undefined;
    if (directory === undefined) server.listen(0, '127.0.0.1');
    else server.listen(join(directory, 'docker.sock'));
    await once(server, 'listening');
    const bound = server.address();
    const address = typeof bound === 'string' ? `unix://${bound}` : `tcp://127.0.0.1:${bound?.port}`;
    return new EngineProxy(server, sockets, directory, address);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
    if (this.#directory !== undefined) await rm(this.#directory, { recursive: true });
  }
}
