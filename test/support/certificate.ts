import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

/** A certificate that signed itself, for 127.0.0.1, made by openssl in a directory. */
export function makeCertificate(
  directory: string,
  name = 'server',
  subject = 'IP:127.0.0.1',
): { certificate: string; key: string } {
  const [certificate, key] = [join(directory, `${name}.pem`), join(directory, `${name}.key`)] as const;
  const request = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2'];
  execFileSync(
    'openssl',
    [...request, '-subj', `/CN=${name}`, '-addext', `subjectAltName=${subject}`, '-keyout', key, '-out', certificate],
    { stdio: 'ignore' },
  );
  return { certificate: readFileSync(certificate, 'utf8'), key: readFileSync(key, 'utf8') };
}
