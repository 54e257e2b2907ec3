/** `--push` of commands that make images. */

import { homedir } from 'node:os';
import { systemClock } from '../clock.ts';
import type { ImageReference, PushedImage } from '../http/image-registry.ts';
import { progress, sizeText } from './output.ts';
import type { Io } from './output.ts';

/** Pushes the image of a layout, as whom `docker login` has signed in. */
export async function pushLayout(io: Io, directory: string, reference: ImageReference): Promise<PushedImage> {
  const [{ pushImage }, { dockerCredentials }] = await Promise.all([
    import('../http/image-registry.ts'),
    import('../deploy/registry-credentials.ts'),
  ]);
  const credentials = () => dockerCredentials(reference.registry, io.env, io.env['HOME'] ?? homedir());
  return pushImage(directory, { reference, credentials, clock: systemClock, onProgress: (step) => progress(io, `${step} ...`) });
}

/** A row of a table of files. */
export function pushedRow({ reference, wasThere, uploadedBytes, tag }: PushedImage): readonly string[] {
  return [reference, wasThere ? 'was there' : `${sizeText(uploadedBytes)} sent`, `tag ${tag}`];
}
