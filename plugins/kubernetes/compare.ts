/** Whether what is there is what is to be there. Pure. */

import { createHash } from 'node:crypto';
import type { Fields, Manifest } from './client.ts';
import { ANNOTATION } from './pods.ts';

/** The manifest with its own hash as an annotation. */
export function stamped(manifest: Manifest): Manifest {
  const { metadata } = manifest;
  // The owner of another cluster has another id, and data is compared as it is.
  const { data: _, metadata: __, ...rest } = manifest;
  const { ownerReferences: ___, ...meta } = metadata;
  const hash = hashOf({ ...rest, metadata: meta });
  return { ...manifest, metadata: { ...metadata, annotations: { ...metadata.annotations, [ANNOTATION.manifest]: hash } } };
}

interface PodTemplate {
  readonly metadata: { readonly labels: Readonly<Record<string, string>>; readonly annotations: Readonly<Record<string, string>> };
}

/** The template with its own hash, which its pods have from it. */
export function stampedTemplate<Template extends PodTemplate>(template: Template): Template & PodTemplate {
  const annotations = { ...template.metadata.annotations, [ANNOTATION.manifest]: hashOf(template) };
  return { ...template, metadata: { ...template.metadata, annotations } };
}

/** The paths that differ. What the cluster adds to what was applied is no difference. */
export function differences(wanted: Manifest, live: Manifest): readonly string[] {
  const { kind: _, apiVersion: __, ...fields } = wanted;
  const found = differing(fields, live, '');
  const [data, liveData] = [wanted['data'], live['data']];
  // Data that is left out is to go.
  const extra = data && liveData ? Object.keys(liveData as Fields).filter((key) => !(key in (data as Fields))) : [];
  return [...found, ...extra.map((key) => `data.${key}`)];
}

export function differing(wanted: unknown, live: unknown, path: string): readonly string[] {
  if (Array.isArray(wanted)) {
    if (!Array.isArray(live) || live.length !== wanted.length) return [path];
    return wanted.flatMap((each, index) => differing(each, live[index], `${path}[${index}]`));
  }
  if (typeof wanted === 'object' && wanted !== null) {
    if (typeof live !== 'object' || live === null) return Object.keys(wanted).length === 0 ? [] : [path];
    return Object.entries(wanted).flatMap(([key, value]) => differing(value, (live as Fields)[key], path === '' ? key : `${path}.${key}`));
  }
  return wanted === live ? [] : [path];
}

function hashOf(value: unknown): string {
  return createHash('sha256').update(canonical(value)).digest('hex');
}

/** The same text for what is equal. */
export function canonical(value: unknown): string {
  if (typeof value !== 'object' || value === null) return JSON.stringify(value) ?? '';
  if (Array.isArray(value)) return `[${value.map(canonical).join()}]`;
  const entries = Object.entries(value).toSorted(([a], [b]) => (a < b ? -1 : 1));
  return `{${entries.map(([key, each]) => `${JSON.stringify(key)}:${canonical(each)}`).join()}}`;
}
