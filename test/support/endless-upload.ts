// A program that uploads without end, for a test that kills it: endless-upload.ts CONFIGURATION PATH
import { setTimeout as sleep } from 'node:timers/promises';
import { loadConfig } from '../../src/config.ts';
import { connect } from '../../src/site/connect.ts';
import { startUpload } from '../../src/site/upload.ts';

const [configuration, path = ''] = process.argv.slice(2);
const endless = (async function* () {
  for (;;) {
    yield Buffer.alloc(1000);
    await sleep(20);
  }
})();
await startUpload(await connect(await loadConfig(configuration)), path, endless);
