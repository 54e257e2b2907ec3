#!/usr/bin/env node
// Starts the command line. Old versions of node read this file too, to be told that they are old: only syntax that they know.
import * as nodeModule from 'node:module';

var needed = [22, 19];
var actual = process.versions.node.split('.').map(Number);
var tooOld = actual[0] < needed[0] || (actual[0] === needed[0] && actual[1] < needed[1]);

function fail(text) {
  process.stderr.write(text + '\n');
  process.exitCode = 1;
}

if (tooOld) {
  fail(
    'blueprint-runner needs Node.js ' + needed.join('.') + ' or newer; this is ' + process.versions.node + ' (' + process.execPath + ').',
  );
  fail('Install a newer one from https://nodejs.org, or put one into your project: npm install --save-dev node@24, then npx bpr.');
} else {
  if (nodeModule.enableCompileCache) nodeModule.enableCompileCache();
  import('../dist/src/cli/main.js')
    .then(function (cli) {
      return cli.main();
    })
    .then(function (status) {
      process.exitCode = status;
    })
    .catch(function (error) {
      var unbuilt = error.code === 'ERR_MODULE_NOT_FOUND' && String(error.url).endsWith('cli/main.js');
      fail(unbuilt ? 'blueprint-runner is not built: run npm run build first.' : String(error.stack || error));
    });
}
