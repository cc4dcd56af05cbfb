import { setTimeout as sleep } from 'node:timers/promises';
import type { FastifyInstance } from 'fastify';

/** Requests that have arrived whole get this long to be answered when the server ends, in milliseconds. */
const patience = 180_000;
/** Those that still arrive get this long. */
const grace = 2000;

/** Knows which requests are being worked on, so that a server can end without cutting them off, and without waiting for idlers. */
export class UnderWay {
  readonly #app: FastifyInstance;
  #count = 0;
  #idle: (() => void) | undefined;

  constructor(app: FastifyInstance) {
    this.#app = app;
    const counted = new WeakSet<object>();
    app.addHook('preValidation', async (request) => {
      counted.add(request);
      this.#count += 1;
    });
    app.addHook('onResponse', async (request) => {
      if (!counted.delete(request)) return;
      this.#count -= 1;
      if (this.#count === 0) this.#idle?.();
    });
  }

  /** Takes no new connection, has every request that has arrived answered, and ends all connections. */
  async close(): Promise<void> {
    const closed = this.#app.close();
    const late = new AbortController();
    const waited = sleep(patience, undefined, { signal: late.signal }).catch(() => undefined);
    // Node watches over slow callers only while it listens.
    const rest = async (): Promise<void> => {
      await sleep(grace, undefined, { signal: late.signal }).catch(() => undefined);
      const idle = Promise.withResolvers<void>();
      this.#idle = idle.resolve;
      if (this.#count > 0) await Promise.race([idle.promise, waited]);
      this.#app.server.closeAllConnections();
    };
    const resting = rest();
    await closed;
    late.abort();
    await resting;
  }
}
