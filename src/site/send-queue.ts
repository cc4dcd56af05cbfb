import type { Socket } from 'node:net';

/** Bytes that may wait in a socket's queue before nothing more is put there. What the system takes beside that keeps a long way full. */
const longestQueue = 1024 * 1024;

/**
 * The queue in which a socket keeps what the system does not take yet. All channels of a connection write into it what their windows let
 * through, each packet with memory of its own: with eight of them up to 16 MiB, and what the collector has not found yet of it.
 */
export class SendQueue {
  readonly #socket: Socket;
  #room: Promise<void> | undefined;

  constructor(socket: Socket) {
    this.#socket = socket;
  }

  /** Nothing where more may be written now; otherwise what resolves when that is so, or when the socket has closed. */
  room(): Promise<void> | undefined {
    const socket = this.#socket;
    if (!socket.writableNeedDrain || socket.writableLength < longestQueue || socket.destroyed) return undefined;
    // One for all channels: each with listeners of its own would be more than a socket has without a warning.
    this.#room ??= new Promise((resolve) => {
      const settle = (): void => {
        socket.off('drain', settle).off('close', settle);
        this.#room = undefined;
        resolve();
      };
      socket.on('drain', settle).on('close', settle);
    });
    return this.#room;
  }
}
