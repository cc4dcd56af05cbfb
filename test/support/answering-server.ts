import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';

/** What is in place of an HPCS server, as far as a client sees: to each call the answer that a test gives it. */
export class AnsweringServer implements AsyncDisposable {
  /** By path; text goes as it is. A call that has none is answered with 500. */
  readonly answers = new Map<string, { status: number; body: unknown }>([
    ['/api/client/token', { status: 200, body: { success: true, spiffeID: 's', token: 't' } }],
  ]);
  /** The calls that came, as paths. */
  readonly asked: string[] = [];
  readonly #http = createServer((request, response) => {
    const path = request.url ?? '';
    this.asked.push(path);
    const { status, body } = this.answers.get(path) ?? { status: 500, body: {} };
    response.writeHead(status).end(typeof body === 'string' ? body : JSON.stringify(body));
  });

  static async start(): Promise<AnsweringServer> {
    const server = new AnsweringServer();
    server.#http.listen(0, '127.0.0.1');
    await once(server.#http, 'listening');
    return server;
  }

  /** Answers a call with `success` and this. */
  answer(path: string, body: object = {}): void {
    this.answers.set(path, { status: 200, body: { success: true, ...body } });
  }

  refuse(path: string, status: number, message: string): void {
    this.answers.set(path, { status, body: { success: false, message } });
  }

  /** A client's configuration, as text. Of section [identity], which is its last, more may follow. */
  configuration(stateDirectory: string): string {
    const { port } = this.#http.address() as AddressInfo;
    return `[spire-server]
address=127.0.0.1
port=1
trust-domain=t
[hpcs-server]
url=http://127.0.0.1:${port}
[vault]
url=https://127.0.0.1:1
[supercomputer]
address=a
username=u
[client]
state-directory=${stateDirectory}
allow-insecure-http=true
[identity]
`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#http.closeAllConnections();
    this.#http.close();
    await once(this.#http, 'close');
  }
}
