/** Functions that are container images. https://docs.aws.amazon.com/lambda/latest/dg/images-create.html */

import type { FunctionConfiguration } from '@aws-sdk/client-lambda';
import { RunnerError } from '../../src/plugin.ts';
import type { FunctionPackage } from '../../src/plugin.ts';
import { toBase64 } from './names.ts';

export interface Executable {
  readonly code?: FunctionPackage | undefined;
  readonly image: string | undefined;
}

/** What Lambda calls the code: the hash of a package in base64, the digest of an image. Undefined: the code stays. */
export function codeHash({ code, image }: Executable): string | undefined {
  if (image !== undefined) return image.slice(image.indexOf('@sha256:') + '@sha256:'.length);
  return code && toBase64(code.sha256);
}

/** Throws `OPERATION_UNSUPPORTED` for what Lambda cannot become. */
export function refuseOtherKind(present: FunctionConfiguration, { code, image }: Executable): void {
  const isImage = present.PackageType === 'Image';
  if ((image === undefined && code === undefined) || isImage === (image !== undefined)) return;
  const [is, wanted] = isImage ? ['an image', 'a package'] : ['a package', 'an image'];
  const message = `function ${present.FunctionName} is ${is}, and Lambda cannot make it ${wanted}: remove it first, or name another function`;
  throw new RunnerError('OPERATION_UNSUPPORTED', message, { details: { name: present.FunctionName } });
}
