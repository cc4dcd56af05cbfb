/**
 * The build service of an engine, which can send the file system that the layers of an image make together: it mounts what the engine
 * has unpacked already, where saving reads and writes every layer once more before the first byte comes.
 *
 * @see moby/moby, api/server/router/{session,grpc}: connections that are upgraded to HTTP/2 without TLS, the first with the engine as
 * the client; grpc/grpc, doc/PROTOCOL-HTTP2.md
 */
import { randomUUID } from 'node:crypto';
import { addAbortListener, once } from 'node:events';
import { connect, performServerHandshake, type IncomingHttpHeaders, type ServerHttp2Stream } from 'node:http2';
import type { Duplex } from 'node:stream';
import type Docker from 'dockerode';
import { HpcsError, systemCode } from '../errors.ts';
import { ByteReader, type Bytes } from '../seal/bytes.ts';
import { dial, engineMessage, engineStatus } from './docker.ts';
import { FileSyncError, packetCoder, receiveFiles, type Packet } from './file-sync.ts';
import { solveRequest, type NamedImage } from './llb.ts';
import type { FileTree } from './tree.ts';

/** Longest wait until files begin to come, and for more of them, in milliseconds. */
const patience = 30_000;

const silence = `it sent nothing for ${patience / 1000} s`;

/** Bytes that may be under way, for one stream and for all: with HTTP/2's own 64 KiB every piece waits for leave. */
const windows = { stream: 8 * 1024 * 1024, session: 16 * 1024 * 1024 };

/** Longest message that is believed, in bytes. */
const longestMessage = 16 * 1024 * 1024;

const methods = {
  solve: '/moby.buildkit.v1.Control/Solve',
  send: '/moby.filesync.v1.FileSend/DiffCopy',
  health: '/grpc.health.v1.Health/Check',
} as const;

const grpcStatus = { ok: '0', unimplemented: '12' } as const;
const grpcHeaders = { 'content-type': 'application/grpc' } as const;
/** HealthCheckResponse: serving. */
const healthy = Buffer.from([0x08, 0x01]);

/** The build service did not send the image, or not all of it. */
export class BuildKitError extends Error {
  override readonly name = 'BuildKitError';
}

/**
 * Has the build service send an image. Nothing of the image is run, and it keeps its name.
 *
 * @param check is asked when the build knows its image, and before anything is kept
 * @param keep takes the content of a file
 * @param signal ends what is under way. To be aborted in the end, since the service may still tidy up when this returns
 * @throws BuildKitError when the service is not there, does not know the image, or breaks off; what `check` and `keep` throw; the signal's reason
 */
export async function receiveImage<Content>(
  docker: Docker,
  image: NamedImage,
  check: () => Promise<void>,
  keep: (size: number, body: Bytes) => Promise<Content>,
  signal: AbortSignal,
): Promise<FileTree<Content>> {
  const late = AbortSignal.timeout(patience);
  try {
    await using cleanup = new AsyncDisposableStack();
    const upgraded = async (path: string, headers: Record<string, string | string[]>): Promise<Duplex> => {
      const socket = await dial(docker, { path, method: 'POST', headers, hijack: true, signal: AbortSignal.any([signal, late]) });
      cleanup.defer(() => void socket.destroy());
      socket.on('error', () => {});
      cleanup.use(addAbortListener(signal, () => void socket.destroy()));
      return socket;
    };
    const session = randomUUID();
    const offered = serveFiles(
      await upgraded('/session', {
        Upgrade: 'h2c',
        'X-Docker-Expose-Session-Uuid': session,
        'X-Docker-Expose-Session-Name': 'hpcs-client',
        'X-Docker-Expose-Session-Grpc-Method': [methods.send, methods.health],
      }),
    );
    const solved = call(await upgraded('/grpc', { Upgrade: 'h2c' }), methods.solve, solveRequest(image, session));
    const nothing = solved.then(() => Promise.reject(new BuildKitError('it sent nothing')));
    const waited = once(late, 'abort').then(() => Promise.reject(late.reason as Error));
    waited.catch(() => {});
    const stream = await Promise.race([offered, nothing, waited]);
    // An engine that does not end the stream with the build.
    solved.catch((error: unknown) => stream.destroy(error as Error));
    await check();
    const send = (packet: Partial<Packet>): void => {
      if (stream.writable) stream.write(framed(packetCoder.encode(packet)));
    };
    const tree = await receiveFiles(packetsOf(unlessSilent(stream)), send, keep);
    stream.end();
    // The service says that it has sent all, and then takes its time to tidy up.
    const owned = cleanup.move();
    const dispose = (): Promise<void> => owned.disposeAsync();
    void solved.then(dispose, dispose);
    return tree;
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof HpcsError || error instanceof BuildKitError) throw error;
    if (late.aborted && (error === late.reason || systemCode(error) === 'ABORT_ERR'))
      throw new BuildKitError(silence, { cause: error });
    const foreign = error instanceof FileSyncError || systemCode(error) !== undefined || engineStatus(error) !== undefined;
    throw foreign ? new BuildKitError(engineMessage(error), { cause: error }) : error;
  }
}

/** Serves a session that offers nothing but to take files. @returns the call that brings them */
function serveFiles(socket: Duplex): Promise<ServerHttp2Stream> {
  const { promise, resolve } = Promise.withResolvers<ServerHttp2Stream>();
  const session = performServerHandshake(socket, { settings: { initialWindowSize: windows.stream } });
  session.on('error', () => {});
  session.setLocalWindowSize(windows.session);
  session.on('stream', (stream, headers) => {
    stream.on('error', () => {});
    const method = headers[':path'];
    const known = method === methods.health || method === methods.send;
    if (stream.destroyed) return;
    if (!known) return stream.respond({ ...grpcHeaders, 'grpc-status': grpcStatus.unimplemented }, { endStream: true });
    stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': grpcStatus.ok }));
    stream.respond(grpcHeaders, { waitForTrailers: true });
    if (method === methods.health) stream.end(framed(healthy));
    else resolve(stream);
  });
  return promise;
}

/** Calls a method that has one answer, of which only the status counts. */
async function call(socket: Duplex, method: string, message: Buffer): Promise<void> {
  const session = connect('http://engine', { createConnection: () => socket });
  session.on('error', () => {});
  const stream = session.request({ ':method': 'POST', ':path': method, te: 'trailers', ...grpcHeaders });
  const { promise, resolve, reject } = Promise.withResolvers<IncomingHttpHeaders>();
  // A call that fails at once has its status in the first headers.
  stream.on('response', (headers) => 'grpc-status' in headers && resolve(headers));
  stream.on('trailers', resolve);
  stream.on('error', reject);
  stream.on('close', () => reject(new BuildKitError('the connection was lost')));
  stream.resume().end(framed(message));
  const { 'grpc-status': status, 'grpc-message': words } = await promise;
  if (status !== grpcStatus.ok) throw new BuildKitError(String(words ?? `status ${String(status)}`));
}

/** A message with what gRPC puts before it: that it is not compressed, and its length. */
function framed(message: Uint8Array): Buffer {
  const prefix = Buffer.alloc(5);
  prefix.writeUInt32BE(message.length, 1);
  return Buffer.concat([prefix, message]);
}

/** The bytes of a stream, which is destroyed when it is waited for and says nothing for too long. */
async function* unlessSilent(stream: ServerHttp2Stream): AsyncGenerator<Uint8Array, void, undefined> {
  const limit = (): NodeJS.Timeout => setTimeout(() => stream.destroy(new BuildKitError(silence)), patience);
  let timer = limit();
  try {
    for await (const piece of stream as AsyncIterable<Uint8Array>) {
      // While a piece is kept, the service has nothing to say when it has sent what was asked for.
      clearTimeout(timer);
      yield piece;
      timer = limit();
    }
  } finally {
    clearTimeout(timer);
  }
}

async function* packetsOf(stream: Bytes): AsyncGenerator<Packet, void, undefined> {
  await using reader = new ByteReader(stream);
  for (;;) {
    const prefix = await reader.read(5);
    if (prefix.length === 0) return;
    const length = prefix.length === 5 && prefix[0] === 0 ? prefix.readUInt32BE(1) : NaN;
    const message = length <= longestMessage ? await reader.read(length) : undefined;
    if (message?.length !== length) throw new FileSyncError('it sent what is no message of gRPC');
    yield packetCoder.decode(message);
  }
}
