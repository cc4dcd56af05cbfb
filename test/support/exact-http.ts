import { connect } from 'node:tls';

/** An answer to {@link sendExactly}. */
export interface ExactAnswer {
  status: number;
  body: unknown;
}

/**
 * Sends these very bytes over TLS, and reads one answer with a Content-Length.
 *
 * @param ca PEM
 */
export async function sendExactly(url: URL, ca: string | undefined, text: string): Promise<ExactAnswer> {
  const socket = connect({ host: url.hostname, port: Number(url.port), ...(ca === undefined ? {} : { ca }) });
  try {
    socket.write(text);
    let answer = Buffer.alloc(0);
    for await (const part of socket) {
      answer = Buffer.concat([answer, part as Buffer]);
      const end = answer.indexOf('\r\n\r\n');
      if (end < 0) continue;
      const head = answer.subarray(0, end).toString('latin1');
      const length = Number(/^content-length: (\d+)$/im.exec(head)?.[1]);
      const body = answer.subarray(end + 4);
      if (body.length < length) continue;
      return { status: Number(head.split(' ')[1]), body: JSON.parse(body.toString('utf8')) as unknown };
    }
    throw new Error(`half an answer: ${answer.toString('latin1')}`);
  } finally {
    socket.destroy();
  }
}
