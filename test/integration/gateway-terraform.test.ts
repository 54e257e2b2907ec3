/** Terraform provisions functions of a gateway as it does those of AWS: no difference is left after it, and nothing after its end. */

import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { zipSync } from 'fflate';
import { expect } from 'vitest';
import { ProcessBackend } from '../../plugins/process/index.ts';
import { Gateway } from '../../src/gateway/gateway.ts';
import { requirePeer, runs } from '../require.ts';

const run = promisify(execFile);
const MIRROR = process.env['TERRAFORM_MIRROR'] ?? '';

const testTerraform = requirePeer('terraform', () => {
  runs('terraform', 'version');
  if (!existsSync(join(MIRROR, 'registry.terraform.io', 'hashicorp', 'aws')))
    throw new Error('TERRAFORM_MIRROR names no folder with the provider hashicorp/aws');
});

function project(endpoint: string, memory: number): object {
  const named = { function_name: '${aws_lambda_function.f.function_name}' };
  return {
    terraform: { required_providers: { aws: { source: 'hashicorp/aws' } } },
    provider: {
      aws: {
        region: 'us-east-1',
        access_key: 'a',
        secret_key: 'b',
        skip_credentials_validation: true,
        skip_requesting_account_id: true,
        skip_metadata_api_check: true,
        endpoints: [{ lambda: endpoint }],
      },
    },
    resource: {
      aws_lambda_layer_version: { l: { layer_name: 'lib', filename: 'code.zip', compatible_runtimes: ['nodejs22.x'] } },
      aws_lambda_function: {
        f: {
          function_name: 'provisioned',
          role: 'arn:aws:iam::000000000000:role/x',
          runtime: 'nodejs22.x',
          handler: 'index.handler',
          filename: 'code.zip',
          source_code_hash: '${filebase64sha256("code.zip")}',
          publish: true,
          memory_size: memory,
          timeout: 10,
          layers: ['${aws_lambda_layer_version.l.arn}'],
          reserved_concurrent_executions: 5,
          environment: [{ variables: { COLOUR: 'red' } }],
          tags: { team: 'a' },
        },
      },
      aws_lambda_alias: { a: { ...named, name: 'prod', function_version: '${aws_lambda_function.f.version}' } },
      aws_lambda_permission: {
        p: {
          ...named,
          statement_id: 's',
          action: 'lambda:InvokeFunction',
          principal: 'events.amazonaws.com',
          qualifier: '${aws_lambda_alias.a.name}',
        },
      },
      aws_lambda_function_event_invoke_config: { e: { ...named, maximum_retry_attempts: 1, maximum_event_age_in_seconds: 120 } },
      aws_lambda_provisioned_concurrency_config: {
        c: { ...named, qualifier: '${aws_lambda_alias.a.name}', provisioned_concurrent_executions: 1 },
      },
      aws_lambda_invocation: { i: { ...named, input: '{"k":"v"}' } },
    },
    output: { answer: { value: '${aws_lambda_invocation.i.result}' } },
  };
}

testTerraform(
  'terraform makes, changes and removes functions, layers, aliases and what is attached to them',
  async () => {
    const folder = mkdtempSync(join(tmpdir(), 'bpr-tf-'));
    const home = mkdtempSync(join(tmpdir(), 'bpr-gw-'));
    const gateway = new Gateway({ folder: home, backends: new Map([['process', new ProcessBackend({ blanks: 0 })]]) });
    const url = await gateway.listen({ port: 0 });
    const terraform = (...args: string[]): Promise<{ stdout: string }> =>
      run('terraform', [...args, '-no-color'], {
        cwd: folder,
        env: { PATH: process.env['PATH'] ?? '', HOME: folder, TF_CLI_CONFIG_FILE: join(folder, 'rc'), CHECKPOINT_DISABLE: '1' },
      });
    try {
      writeFileSync(join(folder, 'rc'), `provider_installation { filesystem_mirror { path = ${JSON.stringify(MIRROR)} } }`);
      const code = zipSync({
        'index.mjs': Buffer.from('export const handler = async (event) => ({ got: event, colour: process.env.COLOUR });'),
      });
      writeFileSync(join(folder, 'code.zip'), code);
      writeFileSync(join(folder, 'main.tf.json'), JSON.stringify(project(url, 256)));
      await terraform('init');
      await terraform('apply', '-auto-approve');
      expect(JSON.parse((await terraform('output', '-raw', 'answer')).stdout)).toEqual({ got: { k: 'v' }, colour: 'red' });
      // Ends with 2 when it would change something.
      await terraform('plan', '-detailed-exitcode');
      writeFileSync(join(folder, 'main.tf.json'), JSON.stringify(project(url, 512)));
      await expect(terraform('plan', '-detailed-exitcode')).rejects.toMatchObject({ code: 2 });
      await terraform('apply', '-auto-approve');
      await terraform('plan', '-detailed-exitcode');
      expect((await terraform('destroy', '-auto-approve')).stdout).toContain('7 destroyed');
      expect(await (await fetch(`${url}/2015-03-31/functions`)).json()).toEqual({ Functions: [] });
    } finally {
      await gateway.close();
      for (const path of [folder, home]) rmSync(path, { recursive: true, force: true });
    }
  },
  240_000,
);
