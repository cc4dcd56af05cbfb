import { spawn } from 'node:child_process';
import { Agent } from 'node:http';
import { Duplex } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type { DockerEndpoint } from './endpoint.ts';

/**
 * Connections to an engine behind SSH, each one a run of the system's own `ssh`, so that its configuration, keys and, above all,
 * its check of host keys hold. (dockerode's way accepts any host key.)
 *
 * @see Docker CLI, `docker system dial-stdio`
 */
export class SshAgent extends Agent {
  readonly #arguments: readonly string[];
  #lastWords = Promise.resolve('');

  constructor(endpoint: Extract<DockerEndpoint, { kind: 'ssh' }>) {
    super({ keepAlive: false });
    const { host, port, user } = endpoint;
    this.#arguments = [
      ...(user === undefined ? [] : ['-l', user]),
      ...(port === undefined ? [] : ['-p', String(port)]),
      '-T',
      '-o',
      'ConnectTimeout=30',
      '--',
      host,
      'docker',
      'system',
      'dial-stdio',
    ];
  }

  override createConnection(): Duplex {
    const child = spawn('ssh', this.#arguments, { stdio: ['pipe', 'pipe', 'pipe'] });
    const connection = Duplex.from({ readable: child.stdout, writable: child.stdin });
    let words = '';
    child.stderr.setEncoding('utf8').on('data', (chunk: string) => (words = (words + chunk).slice(-2000)));
    child.on('error', (error) => connection.destroy(error));
    this.#lastWords = new Promise((resolve) =>
      child.on('close', (code) => resolve(code === 0 || code === null ? '' : words.trim() || `ssh ended with ${code}`)),
    );
    connection.on('close', () => child.kill());
    return connection;
  }

  /** What the last `ssh` said when it failed; empty where it did not. It may say so after its connection broke. */
  lastWords(): Promise<string> {
    return Promise.race([this.#lastWords, sleep(1000, '', { ref: false })]);
  }
}
