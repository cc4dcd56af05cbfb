import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Transform } from 'node:stream';

type Fate = void | 'taken' | Transform;

/**
 * What happens to a connection whose request line has come. Unless it says otherwise, the connection goes on to the engine; what that
 * answers goes through the transform that is given, if any.
 */
export type OnRequest = (line: string, client: Socket, engine: Socket) => Fate | Promise<Fate>;

const preface = 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n';

/** Lets an engine's HTTP/2 on a session through, but of each stream's DATA no more than so many bytes. @see RFC 9113, sections 3.4 and 4.1 */
export function dataUpTo(most: number): Transform {
  const [headSize, dataType] = [9, 0];
  let bytes = Buffer.alloc(0);
  let upgraded = false;
  const passed = new Map<number, number>();
  return new Transform({
    transform(piece: Buffer, _encoding, done) {
      bytes = Buffer.concat([bytes, piece]);
      // The engine is the client there: its preface comes first.
      const start = upgraded ? -1 : bytes.indexOf(preface) + preface.length;
      if (start >= preface.length) {
        upgraded = true;
        this.push(bytes.subarray(0, start));
        bytes = bytes.subarray(start);
      }
      if (!upgraded) return done();
      while (bytes.length >= headSize && bytes.length >= headSize + bytes.readUIntBE(0, 3)) {
        const frame = bytes.subarray(0, headSize + bytes.readUIntBE(0, 3));
        bytes = bytes.subarray(frame.length);
        const stream = frame.readUInt32BE(5);
        const size = (passed.get(stream) ?? 0) + (frame[3] === dataType ? frame.length : 0);
        passed.set(stream, size);
        if (frame[3] !== dataType || size <= most) this.push(frame);
      }
      done();
    },
  });
}

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
          const fate = await onRequest(head.toString('latin1').split('\r\n', 1)[0] ?? '', client, engine);
          if (fate === 'taken') return;
          engine.write(head);
          client.pipe(engine);
          (fate === undefined ? engine : engine.pipe(fate)).pipe(client);
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
