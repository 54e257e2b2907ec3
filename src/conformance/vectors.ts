/** What the artifact must answer on every platform, as data. */

import type { Vector } from './vector.ts';
import { dataVectors } from './vectors-data.ts';
import { lifeVectors } from './vectors-life.ts';

export const vectors: readonly Vector[] = [...dataVectors, ...lifeVectors];
