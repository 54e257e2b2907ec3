/** Operations on layers. */

import { RunnerError } from '../../errors.ts';
import type { JsonObject, LayerName, LayerRecord } from '../../runtime/store-records.ts';
import { demand } from '../http.ts';
import type { CodeLinks } from './code-links.ts';
import { toBase64 } from './configuration.ts';
import type { Fields } from './fields.ts';
import { layerArn, parseLayerName } from './names.ts';
import type { Place } from './names.ts';
import { NO_CONTENT, answer, awsTime, nextMarker, pageOf } from './operation.ts';
import type { Handlers, LambdaParts, OperationRequest } from './operation.ts';

const PAGE_MAX = 50;

export function layerHandlers({ store, place }: LambdaParts, links: CodeLinks) {
  const withContent = (layer: LayerRecord, origin: string): JsonObject => ({
    ...toLayer(layer, place),
    LayerArn: layerArn(place, layer.name),
    Content: { Location: links.ofLayer(origin, layer), CodeSha256: toBase64(layer.sha256), CodeSize: layer.zipBytes },
  });
  return {
    async PublishLayerVersion({ params, fields: read, origin, caller }) {
      // Keys for some functions are for layers of such names.
      demand(caller, 'functions:write', nameOf(params));
      const fields = read();
      const zip = fields.inner('Content')?.bytes('ZipFile');
      if (zip === undefined) {
        throw new RunnerError('REQUEST_INVALID', 'Please provide the content as ZipFile.', {
          details: { awsType: 'InvalidParameterValueException' },
        });
      }
      return answer(201, withContent(await store.layers.publish({ name: nameOf(params), zip, ...layerSettings(fields) }), origin));
    },
    GetLayerVersion: ({ params, origin }) => answer(200, withContent(store.layers.get(versionOf(params)), origin)),
    ListLayers({ query, origin }) {
      if (query.get('find') === 'LayerVersion') {
        const { name, version = 0 } = parseLayerName(query.get('Arn') ?? '');
        return answer(200, withContent(store.layers.get({ name, version }), origin));
      }
      const page = store.layers.list(pageOf(query, PAGE_MAX));
      const layers = page.items.filter((layer) => isCompatible(layer, query));
      return answer(200, {
        Layers: layers.map((layer) => ({
          LayerName: layer.name,
          LayerArn: layerArn(place, layer.name),
          LatestMatchingVersion: toLayer(layer, place),
        })),
        ...nextMarker(page),
      });
    },
    ListLayerVersions({ params, query }) {
      const page = store.layers.versions(nameOf(params), pageOf(query, PAGE_MAX));
      const layers = page.items.filter((layer) => isCompatible(layer, query));
      return answer(200, { LayerVersions: layers.map((layer) => toLayer(layer, place)), ...nextMarker(page) });
    },
    DeleteLayerVersion({ params, caller }) {
      demand(caller, 'functions:write', nameOf(params));
      store.layers.remove(versionOf(params));
      return NO_CONTENT;
    },
  } satisfies Partial<Handlers>;
}

function nameOf(params: OperationRequest['params']): string {
  return parseLayerName(params['LayerName'] ?? '').name;
}

function versionOf(params: OperationRequest['params']): LayerName {
  const version = Number(params['VersionNumber']);
  return { name: nameOf(params), version: Number.isSafeInteger(version) ? version : 0 };
}

function isCompatible({ runtimes, architectures }: LayerRecord, query: URLSearchParams): boolean {
  const runtime = query.get('CompatibleRuntime');
  const architecture = query.get('CompatibleArchitecture');
  return (runtime === null || runtimes.includes(runtime)) && (architecture === null || architectures.includes(architecture));
}

function layerSettings(fields: Fields): Partial<Pick<LayerRecord, 'description' | 'license' | 'runtimes' | 'architectures'>> {
  const description = fields.text('Description');
  const license = fields.text('LicenseInfo');
  const runtimes = fields.texts('CompatibleRuntimes');
  const architectures = fields.texts('CompatibleArchitectures');
  return {
    ...(description !== undefined && { description }),
    ...(license !== undefined && { license }),
    ...(runtimes && { runtimes }),
    ...(architectures && { architectures }),
  };
}

function toLayer({ name, version, description, license, runtimes, architectures, createdAt }: LayerRecord, place: Place): JsonObject {
  return {
    LayerVersionArn: `${layerArn(place, name)}:${version}`,
    Version: version,
    Description: description,
    CreatedDate: awsTime(createdAt),
    ...(license !== '' && { LicenseInfo: license }),
    ...(runtimes.length > 0 && { CompatibleRuntimes: runtimes }),
    ...(architectures.length > 0 && { CompatibleArchitectures: architectures }),
  };
}
