import { HpcsError } from '../errors.ts';
import { FramedProcess, type Channel } from './remote-process.ts';
import type { ExecOptions, RemoteProcess, Transport } from './transport.ts';

/** One SSH connection, as the transports make them. */
export interface Link {
  /** Why the connection is gone, or undefined while it stands. */
  readonly lost: HpcsError | undefined;
  /** Starts the fixed remote command on a new channel. Rejects with an HpcsError `site`. */
  open(): Promise<Channel>;
  /** Closes the connection and removes what it needed on this machine. */
  close(): Promise<void>;
}

/**
 * A transport over links. Commands that run when a link breaks fail; the next one connects again, so that following a job outlives
 * a sleeping laptop, and what a broken upload left can still be removed.
 */
export class LinkTransport implements Transport {
  readonly #connect: () => Promise<Link>;
  readonly #running = new Set<FramedProcess>();
  #link: Promise<Link>;
  #closed = false;

  private constructor(first: Link, connect: () => Promise<Link>) {
    this.#link = Promise.resolve(first);
    this.#connect = connect;
  }

  /** Makes the first link, and with it the transport. @param connect makes a link; the signal only guards the first */
  static async start(connect: (signal?: AbortSignal) => Promise<Link>, signal: AbortSignal | undefined): Promise<Transport> {
    return new LinkTransport(await connect(signal), connect);
  }

  exec(script: string, options: ExecOptions = {}): RemoteProcess {
    return this.#run(script, options, () => this.#open());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return;
    const link = await this.#link.catch(() => undefined);
    const reason = new HpcsError('site', 'connection-closed', 'the connection to the site was closed');
    if (link !== undefined && link.lost === undefined)
      await Promise.all([...this.#running].map((process) => process.stop(reason)));
    this.#closed = true;
    await link?.close();
  }

  #run(script: string, options: ExecOptions, open: () => Promise<Channel>): FramedProcess {
    const exec = (text: string): RemoteProcess => this.#run(text, {}, () => this.#openSame());
    const process = new FramedProcess({ open, exec }, script, options);
    this.#running.add(process);
    const forget = (): void => void this.#running.delete(process);
    process.finished.then(forget, forget);
    return process;
  }

  async #open(): Promise<Channel> {
    return (await this.#current()).open();
  }

  // What ends a command is of no use on another connection, and perhaps another machine, than the command's.
  async #openSame(): Promise<Channel> {
    const link = await this.#link;
    if (link.lost !== undefined) throw link.lost;
    return link.open();
  }

  async #current(): Promise<Link> {
    if (this.#closed) throw new HpcsError('site', 'connection-closed', 'the connection to the site was closed');
    const before = this.#link;
    const link = await before.catch(() => undefined);
    if (link !== undefined && link.lost === undefined) return link;
    // Whoever comes first connects; the others wait for that.
    if (this.#link === before) {
      this.#link = (async () => {
        await link?.close();
        return this.#connect();
      })();
      this.#link.catch(() => undefined);
    }
    return this.#link;
  }
}
