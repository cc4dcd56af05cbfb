import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** A certificate and its key, PEM. */
export interface Issued {
  cert: string;
  key: string;
}

/** What stands in a certificate. */
export interface Subject {
  /** Alternative names as openssl takes them: `URI:spiffe://…`, `IP:127.0.0.1`. */
  names?: string;
  usage?: 'clientAuth' | 'serverAuth' | 'clientAuth,serverAuth';
  ca?: boolean;
  days?: number;
}

const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-noenc'];

/** A certificate authority of a test, with files in a directory of it. */
export class Authority {
  readonly certificate: string;
  readonly #path: (name: string) => string;
  #count = 0;

  constructor(directory: string, name: string) {
    this.#path = (kind) => join(directory, `${name}.${kind}`);
    const extensions = ['-addext', 'basicConstraints=critical,CA:TRUE', '-addext', 'keyUsage=critical,keyCertSign,cRLSign'];
    openssl('req', '-x509', ...newKey, '-days', '2', '-subj', `/CN=${name}`, ...extensions, '-keyout', this.#path('key'), '-out', this.#path('pem')); // prettier-ignore
    this.certificate = readFileSync(this.#path('pem'), 'utf8');
  }

  issue({ names, usage = 'clientAuth,serverAuth', ca = false, days = 1 }: Subject): Issued {
    const file = (kind: string): string => this.#path(`${this.#count}.${kind}`);
    this.#count += 1;
    const lines = [
      ...(names === undefined ? [] : [`subjectAltName=${names}`]),
      `basicConstraints=critical,CA:${ca ? 'TRUE' : 'FALSE'}`,
      `keyUsage=critical,${ca ? 'keyCertSign' : 'digitalSignature'}`,
      `extendedKeyUsage=${usage}`,
    ];
    writeFileSync(file('extensions'), lines.join('\n'));
    openssl('req', '-new', ...newKey, '-subj', '/O=SPIRE', '-keyout', file('key'), '-out', file('request'));
    openssl('x509', '-req', '-in', file('request'), '-CA', this.#path('pem'), '-CAkey', this.#path('key'), '-CAcreateserial', '-days', String(days), '-extfile', file('extensions'), '-out', file('pem')); // prettier-ignore
    return { cert: readFileSync(file('pem'), 'utf8'), key: readFileSync(file('key'), 'utf8') };
  }
}

function openssl(...words: string[]): void {
  execFileSync('openssl', words, { stdio: 'ignore' });
}
