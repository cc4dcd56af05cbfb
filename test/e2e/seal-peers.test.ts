import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Secret } from '../../src/secret.ts';
import { generateKey, type ArtefactKey } from '../../src/seal/keys.ts';
import { open } from '../../src/seal/open.ts';
import { readRecipients } from '../../src/seal/recipients.ts';
import { seal } from '../../src/seal/seal.ts';
import { unlock } from '../../src/seal/unlock.ts';
import type { SealFormat } from '../../src/seal/format.ts';
import type { SmallTarEntry } from '../../src/pack/tar.ts';
import { buildPeers, inPeers, oldPeers, streamToPeers, type PeerExit } from '../support/peers.ts';
import { lockedSampleKey, sampleMessage } from '../support/openpgp-samples.ts';
import { collect, inPieces } from '../support/streams.ts';

const kib = 1024;
const mib = 1024 * kib;
const random = randomBytes(9 * mib);
const text = Buffer.from(Array.from({ length: 500_000 }, (_, index) => `${index},${(index * 7919) % 10007}\n`).join(''));
const sizes = [0, 1, 64 * kib, 64 * kib + 1, 256 * kib - 1, 256 * kib, mib - 6, mib, mib + 1, 9 * mib];

/** GnuPG's: it opens and seals with keys that it knows, and has no others here. */
const gpg = {
  format: 'openpgp-gpg',
  showVersion: 'gpg --version',
  prepare: 'export GNUPGHOME=/scratch/home && mkdir -m 700 home && gpg --batch --quiet --import key && ',
  decrypt: 'gpg --batch --quiet --decrypt',
  encrypt: 'gpg --batch --quiet --trust-model always --recipient-file public --encrypt',
} as const;

interface Peer {
  format: SealFormat;
  showVersion: string;
  version: RegExp;
  prepare?: string;
  decrypt: string;
  encrypt: string;
  image?: string;
}

/** The commands of each peer, in a directory with `key`, `public` and the data. */
const peers: Readonly<Record<string, Peer>> = {
  'GnuPG 2.2': { ...gpg, version: /^gpg \(GnuPG\) 2\.2\./, image: oldPeers },
  'GnuPG 2.4': { ...gpg, version: /^gpg \(GnuPG\) 2\.[4-9]\./ },
  'sqop, the older kind': {
    format: 'openpgp-gpg',
    showVersion: 'sqop version',
    version: /^sequoia-sop /,
    decrypt: 'sqop decrypt key',
    encrypt: 'sqop encrypt --no-armor public',
  },
  'rsop, the older kind': {
    format: 'openpgp-gpg',
    showVersion: 'rsop version',
    version: /^rpgpie-sop /,
    decrypt: 'rsop decrypt key',
    encrypt: 'rsop encrypt --no-armor public',
  },
  age: {
    format: 'age',
    showVersion: 'age --version',
    version: /^v?1\./,
    decrypt: 'age -d -i key',
    encrypt: 'age -R public',
  },
  sqop: {
    format: 'openpgp',
    showVersion: 'sqop version',
    version: /^sequoia-sop 0\.(?:3[7-9]|[4-9]\d)\./,
    decrypt: 'sqop decrypt key',
    encrypt: 'sqop encrypt --no-armor --profile=rfc9580 public',
  },
  rsop: {
    format: 'openpgp',
    showVersion: 'rsop version',
    version: /^rpgpie-sop /,
    decrypt: 'rsop decrypt key',
    encrypt: 'rsop encrypt --no-armor public',
  },
};

for (const [name, peer] of Object.entries(peers)) {
  describe(`${name} and we`, () => {
    let key: ArtefactKey;
    const opened = (sealed: Uint8Array): Promise<Buffer> =>
      collect(open(inPieces(sealed), key.secretKey, { checkedAtEnd: true }));
    const run = (shell: string, files: readonly SmallTarEntry[]): Promise<PeerExit> =>
      inPeers(`${peer.prepare ?? ''}${shell}`, files, peer.image);
    const keyFiles = () => [
      { name: 'key', content: `${key.secretKey.reveal()}\n`, mode: 0o600 },
      { name: 'public', content: `${key.publicKey}\n` },
    ];

    before(async function () {
      this.timeout(300_000);
      await buildPeers();
      const { stdout } = await inPeers(peer.showVersion, [], peer.image);
      assert.match(stdout.toString(), peer.version);
      key = await generateKey(peer.format);
    });

    it('it opens what we sealed, at every size', async () => {
      const sealed = await Promise.all(
        sizes.map((size) =>
          collect(
            seal(inPieces(random.subarray(0, size)), { format: peer.format, recipients: [key.publicKey], compress: 'none' })
              .bytes,
          ),
        ),
      );
      const files = sealed.map((content, index) => ({ name: `sealed${index}`, content }));
      // Sizes and contents, one after the other.
      const all = files.map((file) => `${peer.decrypt} < ${file.name}`).join(' && ');
      const { code, stdout, stderr } = await run(all, [...keyFiles(), ...files]);
      assert.equal(code, 0, stderr);
      assert.ok(stdout.equals(Buffer.concat(sizes.map((size) => random.subarray(0, size)))));
    }).timeout(120_000);

    it('it opens what we compressed and sealed, and zstd expands it', async () => {
      const plain = Buffer.concat([text, random.subarray(0, 5 * mib), text]);
      const sealed = await collect(seal(inPieces(plain), { format: peer.format, recipients: [key.publicKey] }).bytes);
      const { code, stdout, stderr } = await run(`${peer.decrypt} < sealed | zstd -d`, [...keyFiles(), { name: 'sealed', content: sealed }]); // prettier-ignore
      assert.equal(code, 0, stderr);
      assert.ok(stdout.equals(plain));
    }).timeout(120_000);

    it('it opens what we sealed to several recipients', async () => {
      const others = await Promise.all([generateKey(peer.format), generateKey(peer.format)]);
      const recipients = [others[0]?.publicKey ?? '', key.publicKey, others[1]?.publicKey ?? ''];
      const sealed = await collect(seal(inPieces(text), { format: peer.format, recipients, compress: 'none' }).bytes);
      const { code, stdout, stderr } = await run(`${peer.decrypt} < sealed`, [
        ...keyFiles(),
        { name: 'sealed', content: sealed },
      ]);
      assert.equal(code, 0, stderr);
      assert.ok(stdout.equals(text));
    }).timeout(120_000);

    it('it refuses what was altered', async () => {
      const sealed = await collect(
        seal(inPieces(text), { format: peer.format, recipients: [key.publicKey], compress: 'none' }).bytes,
      );
      sealed[sealed.length - 100] = (sealed[sealed.length - 100] ?? 0) ^ 1;
      const { code } = await run(`${peer.decrypt} < sealed`, [...keyFiles(), { name: 'sealed', content: sealed }]);
      assert.notEqual(code, 0);
    }).timeout(120_000);

    it('we open what it sealed', async () => {
      for (const size of [0, 1, 64 * kib, 700_001, 5 * mib]) {
        const plain = random.subarray(0, size);
        const files = [...keyFiles(), { name: 'plain', content: plain }];
        const { code, stdout, stderr } = await run(`${peer.encrypt} < plain`, files);
        assert.equal(code, 0, stderr);
        assert.ok((await opened(stdout)).equals(plain), `${size}`);
      }
    }).timeout(120_000);
  });
}

describe("the peers' own keys", () => {
  before(async function () {
    this.timeout(300_000);
    await buildPeers();
  });

  it("we seal to age-keygen's, and open with its file as it is", async () => {
    const { stdout } = await inPeers('age-keygen');
    const recipient = /public key: (age1\w+)/.exec(stdout.toString())?.[1] ?? '';
    const sealed = await collect(seal(inPieces(text), { format: 'age', recipients: [recipient] }).bytes);
    assert.ok((await collect(open(inPieces(sealed), new Secret(stdout)))).equals(text));
  }).timeout(60_000);

  for (const [program, profile] of [
    ['sqop', 'rfc9580'],
    ['sqop', 'draft-koch-eddsa-for-openpgp-00'],
    ['rsop', 'performance'],
    ['rsop', 'default'],
  ] as const) {
    it(`we seal to ${program}'s, profile ${profile}, and both open`, async () => {
      const make = `${program} generate-key --profile=${profile} 'Owner <owner@example.org>'`;
      const { stdout } = await inPeers(`${make} > key && cat key && ${program} extract-cert < key`);
      const [secret = '', certificate = ''] = stdout.toString().split(/(?=-----BEGIN PGP PUBLIC KEY BLOCK-----)/);
      const sealed = await collect(
        seal(inPieces(text), { format: 'openpgp', recipients: [certificate], compress: 'none' }).bytes,
      );
      assert.ok((await collect(open(inPieces(sealed), new Secret(secret)))).equals(text));
      const files = [{ name: 'key', content: secret }, { name: 'sealed', content: sealed }]; // prettier-ignore
      const { code, stdout: opened, stderr } = await inPeers(`${program} decrypt key < sealed`, files);
      assert.equal(code, 0, stderr);
      assert.ok(opened.equals(text));
    }).timeout(60_000);
  }

  for (const image of [undefined, oldPeers]) {
    it(`we seal to GnuPG's, and both open, its protected key too: ${image ?? 'newest'}`, async () => {
      const home = 'export GNUPGHOME=/scratch/home && mkdir -p -m 700 home && ';
      const words = 'correct horse';
      const quiet = `--batch --quiet --pinentry-mode loopback --passphrase '${words}'`;
      const generate = `${home} gpg ${quiet} --quick-generate-key 'Olga Owner <olga@example.org>' ed25519 default never && fpr=$(gpg --batch --with-colons --list-keys | sed -n 's/^fpr:*\\([^:]*\\):.*/\\1/p' | head -n 1) && gpg ${quiet} --quick-add-key "$fpr" cv25519 encr never && gpg ${quiet} --export-secret-keys && printf '%s' ---- && gpg --batch --export`;
      const { code, stdout, stderr } = await inPeers(generate, [], image);
      assert.equal(code, 0, stderr);
      const border = stdout.indexOf('----');
      const [secret, certificate] = [stdout.subarray(0, border), stdout.subarray(border + 4)];
      const directory = await mkdtemp(join(tmpdir(), 'peers-'));
      try {
        await writeFile(join(directory, 'olga'), certificate);
        const [recipient] = await readRecipients([join(directory, 'olga')], 'openpgp-gpg');
        assert.equal(recipient?.owner, 'Olga Owner <olga@example.org>');
        const own = await generateKey('openpgp-gpg');
        const recipients = [own.publicKey, recipient.publicKey];
        const sealed = await collect(seal(inPieces(text), { format: 'openpgp-gpg', recipients, compress: 'none' }).bytes);
        const key = await unlock(new Secret(secret), async () => new Secret(words));
        assert.ok((await collect(open(inPieces(sealed), key, { checkedAtEnd: true }))).equals(text));
        const files = [{ name: 'key', content: secret }, { name: 'sealed', content: sealed }]; // prettier-ignore
        const opened = await inPeers(`${home} gpg ${quiet} --import key && gpg ${quiet} --decrypt < sealed`, files, image);
        assert.equal(opened.code, 0, opened.stderr);
        assert.ok(opened.stdout.equals(text));
      } finally {
        await rm(directory, { recursive: true });
      }
    }).timeout(60_000);
  }

  it("opens RFC 9580's locked sample key (A.5), and with it the sample message (A.8)", async () => {
    const words = 'correct horse battery staple';
    const key = await unlock(new Secret(lockedSampleKey), async () => new Secret(words));
    assert.equal((await collect(open(inPieces(sampleMessage), key))).toString(), 'Hello, world!');
  }).timeout(300_000);
});

describe('more than 4 GiB', () => {
  const size = 2 ** 32 + 12_345;
  const block = randomBytes(mib);
  const plain = async function* (): AsyncGenerator<Uint8Array> {
    for (let left = size; left > 0; left -= block.length) yield block.subarray(0, left);
  };
  let sha256: string;

  before(async function () {
    this.timeout(300_000);
    await buildPeers();
    const hash = createHash('sha256');
    for await (const piece of plain()) hash.update(piece);
    sha256 = hash.digest('hex');
  });

  for (const name of ['GnuPG 2.4', 'age', 'sqop']) {
    const peer = peers[name];
    it(`is sealed and opened in constant memory, and ${name} opens it`, async () => {
      assert.ok(peer);
      const key = await generateKey(peer.format);
      const sealed = (): AsyncIterable<Uint8Array> => seal(plain(), { format: peer.format, recipients: [key.publicKey], compress: 'none' }).bytes; // prettier-ignore
      const hash = createHash('sha256');
      let seen = 0;
      // Once buffers circulate, no more are taken.
      let [early, late] = [0, 0];
      for await (const piece of open(sealed(), key.secretKey, { checkedAtEnd: true })) {
        hash.update(piece);
        seen += piece.length;
        if (seen < 512 * mib) early = Math.max(early, process.memoryUsage.rss());
        else late = Math.max(late, process.memoryUsage.rss());
      }
      assert.equal(hash.digest('hex'), sha256);
      assert.ok(late < early + 150 * mib, `${early / mib} MiB at first, ${late / mib} MiB later`);
      const store = `printf %s ${Buffer.from(`${key.secretKey.reveal()}\n`).toString('base64')} | base64 -d > key && `;
      const shell = `umask 077; ${store}${peer.prepare ?? ''}{ ${peer.decrypt}; echo $? >&2; } | sha256sum`;
      const { code, stdout, stderr } = await streamToPeers(shell, sealed(), peer.image);
      assert.equal(code, 0, stderr);
      assert.equal(stdout.toString().slice(0, 64), sha256, stderr);
      assert.match(stderr, /^0$/m);
    }).timeout(600_000);
  }
});
