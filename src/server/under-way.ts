import { setTimeout as sleep } from 'node:timers/promises';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';

/** Requests that have arrived whole get this long to be done when the server ends, in milliseconds. */
const patience = 180_000;
/** Those that still arrive get this long. */
const grace = 2000;

/** A request that is over. */
export interface Ended {
  request: FastifyRequest;
  reply: FastifyReply;
  /** Its caller was gone before the answer was out. */
  aborted: boolean;
  /** Since its head had arrived, in milliseconds. */
  ms: number;
}

interface Open {
  /** What it still waits for. */
  readonly left: Set<unknown>;
  readonly over: () => void;
}

/**
 * Knows which requests are being worked on, whether or not their callers are still there: so that a server can end without breaking off
 * what it does for them, and without waiting for idlers.
 */
export class UnderWay {
  readonly #open = new WeakMap<FastifyRequest, Open>();
  /** Those that have arrived whole, and are not over. */
  readonly #whole = new Set<FastifyRequest>();
  #idle: (() => void) | undefined;

  /**
   * Follows the requests of an API, those aside that an earlier hook refuses.
   *
   * @param ended told of each, once: its answer is out, or was made for a caller who is gone, and all work for it has ended
   */
  follow(app: FastifyInstance, ended: (end: Ended) => void): void {
    app.addHook('onRequest', (request, reply, done) => {
      const begun = performance.now();
      let aborted = false;
      const over = (): void => ended({ request, reply, aborted, ms: performance.now() - begun });
      this.#open.set(request, { left: new Set(['answer', 'connection']), over });
      // Fastify's own hook, onResponse, is not called where the caller is gone.
      reply.raw.once('finish', () => this.#settle(request, 'connection'));
      reply.raw.once('close', () => {
        aborted = !reply.raw.writableFinished;
        this.#settle(request, 'connection');
      });
      done();
    });
    app.addHook('preValidation', async (request) => void this.#whole.add(request));
    // Called for every answer, although there may be nobody to send it to.
    app.addHook('onSend', async (request) => this.#settle(request, 'answer'));
  }

  /** Has a request count as under way until some work for it has ended, too, which its answer does not wait for. */
  hold(request: FastifyRequest, work: Promise<unknown>): void {
    this.#open.get(request)?.left.add(work);
    void work.catch(() => undefined).then(() => this.#settle(request, work));
  }

  /** Has an API take no new connection, do all that it was asked for by requests that have arrived, and end all connections. */
  async close(app: FastifyInstance): Promise<void> {
    const late = new AbortController();
    const pause = (ms: number): Promise<void> => sleep(ms, undefined, { signal: late.signal }).catch(() => undefined);
    try {
      const closed = app.close();
      const waited = pause(patience);
      // Node watches over slow callers only while it listens. Where no connection is left, nothing arrives any more.
      await Promise.race([closed, pause(grace)]);
      const idle = Promise.withResolvers<void>();
      this.#idle = idle.resolve;
      if (this.#whole.size > 0) await Promise.race([idle.promise, waited]);
      app.server.closeAllConnections();
      await closed;
    } finally {
      late.abort();
    }
  }

  #settle(request: FastifyRequest, what: unknown): void {
    const open = this.#open.get(request);
    if (open === undefined || !open.left.delete(what) || open.left.size > 0) return;
    this.#open.delete(request);
    this.#whole.delete(request);
    if (this.#whole.size === 0) this.#idle?.();
    open.over();
  }
}
