import { BlockList, isIP, isIPv6, type Server, type Socket } from 'node:net';
import rateLimit from '@fastify/rate-limit';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { HpcsError } from '../errors.ts';
import type { Metrics } from './metrics.ts';

/** How much callers may ask for. */
export interface Limits {
  /** Requests a minute from one address, whoever is there. */
  perAddress: number;
  /** Requests a minute of one client, from wherever. */
  perClient: number;
  maxConnections: number;
  maxConnectionsPerAddress: number;
  /** Addresses and networks (CIDR) of proxies: what they say about where a request comes from is believed, nobody else. */
  trustedProxies: readonly string[];
}

/** What a hall full of clients behind one address needs, and no single caller does. */
export const defaultLimits: Limits = {
  perAddress: 6000,
  perClient: 600,
  maxConnections: 2000,
  maxConnectionsPerAddress: 1000,
  trustedProxies: [],
};

/**
 * Time that a caller may take, in milliseconds: the head of a request, all of it, the TLS handshake, and a connection on which
 * nothing moves. The last has to outlast the longest call, a grant to ten thousand readers.
 */
export const timeouts = { head: 10_000, request: 30_000, handshake: 10_000, keepAlive: 65_000, idle: 240_000, check: 2000 };

/** Bytes of a body. The largest grant allowed fits into the last. */
export const longestBody = { usual: 64 * 1024, names: 512 * 1024, readers: 1024 * 1024 };

/** Bytes of a request's head: a token and a proof fit. */
export const longestHead = 16 * 1024;

const minute = 60_000;
/** Callers that are remembered. */
const remembered = 20_000;

/** Counts requests, and refuses those beyond the limits with 429 and the seconds to wait. */
export class RateLimits {
  #address: ReturnType<FastifyInstance['createRateLimit']> | undefined;
  #client: ReturnType<FastifyInstance['createRateLimit']> | undefined;
  readonly #clients = new WeakMap<FastifyRequest, string>();

  /** Counts every request by its address, before anything else is done for it, but those for `exempt` paths. */
  constructor(app: FastifyInstance, limits: Limits, exempt: ReadonlySet<string>) {
    void app.register(rateLimit, { global: false, cache: remembered });
    app.after(() => {
      this.#address = app.createRateLimit({
        max: limits.perAddress,
        timeWindow: minute,
        keyGenerator: ({ ip }) => `address ${network(ip)}`,
      });
      this.#client = app.createRateLimit({
        max: limits.perClient,
        timeWindow: minute,
        keyGenerator: (request) => `client ${this.#clients.get(request) ?? ''}`,
      });
    });
    app.addHook('onRequest', async (request) => {
      if (exempt.has(request.routeOptions.url ?? '')) return;
      // A connection that was reset before anybody looked at it has no address any more.
      if (request.socket.remoteAddress === undefined) throw new HpcsError('usage', 'bad-request', 'the caller has hung up');
      refuse(await this.#address?.(request), 'this address');
    });
  }

  /** Counts a request of a client, or of whoever else a name stands for. @throws HpcsError `identity` with code `too-many-requests` */
  async admit(request: FastifyRequest, client: string): Promise<void> {
    this.#clients.set(request, client);
    refuse(await this.#client?.(request), 'this client');
  }
}

/** Too many requests: with the seconds after which the next is answered. */
export class TooManyRequests extends HpcsError {
  readonly retryAfter: number;

  constructor(whom: string, retryAfter: number) {
    super('identity', 'too-many-requests', `too many requests of ${whom}: try again in ${retryAfter} s`);
    this.retryAfter = retryAfter;
  }
}

type Count = Awaited<ReturnType<ReturnType<FastifyInstance['createRateLimit']>>>;

function refuse(count: Count | undefined, whom: string): void {
  if (count !== undefined && !count.isAllowed && count.isExceeded)
    throw new TooManyRequests(whom, Math.max(1, count.ttlInSeconds));
}

// One caller has a whole /64 of IPv6 to itself.
function network(address: string): string {
  return rateLimit.normalizeIP(address, 64);
}

/**
 * Holds connections to the limits: those beyond are closed at once, before TLS. Those of trusted proxies, which speak for many, count
 * towards the whole alone.
 *
 * @param log told of the first connection of an address that is refused, and of each hundredth
 */
export function limitConnections(
  server: Server,
  limits: Limits,
  metrics: Metrics,
  log: (details: { from: string; connections: number }) => void,
): void {
  const proxies = blockList(limits.trustedProxies);
  const open = new Map<string, { count: number; refused: number }>();
  server.maxConnections = limits.maxConnections;
  server.on('drop', () => metrics.dropped.inc({ reason: 'limit' }));
  server.prependListener('connection', (socket: Socket) => {
    metrics.connections.inc();
    socket.once('close', () => metrics.connections.dec());
    const address = socket.remoteAddress;
    if (address === undefined || isIn(proxies, address)) return;
    const from = network(address);
    const known = open.get(from) ?? { count: 0, refused: 0 };
    open.set(from, known);
    known.count += 1;
    socket.once('close', () => {
      known.count -= 1;
      if (known.count === 0) open.delete(from);
    });
    if (known.count <= limits.maxConnectionsPerAddress) return;
    if (known.refused++ % 100 === 0) log({ from, connections: known.count - 1 });
    metrics.dropped.inc({ reason: 'limit' });
    socket.destroy();
  });
}

/** Whether text is an address or a network, for example `10.0.0.0/8`. */
export function isNetwork(text: string): boolean {
  const [address = '', bits, more] = text.split('/');
  const family = isIP(address);
  if (family === 0 || more !== undefined) return false;
  return bits === undefined || (/^\d{1,3}$/.test(bits) && Number(bits) >= 1 && Number(bits) <= (family === 4 ? 32 : 128));
}

function blockList(networks: readonly string[]): BlockList {
  const list = new BlockList();
  for (const text of networks) {
    const [address = '', bits] = text.split('/');
    const family = isIPv6(address) ? 'ipv6' : 'ipv4';
    if (bits === undefined) list.addAddress(address, family);
    else list.addSubnet(address, Number(bits), family);
  }
  return list;
}

function isIn(list: BlockList, address: string): boolean {
  return list.check(address, isIPv6(address) ? 'ipv6' : 'ipv4');
}
