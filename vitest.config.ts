import { availableParallelism } from 'node:os';
import { defineConfig } from 'vitest/config';

interface Options {
  readonly exclude?: string[];
  readonly testTimeout?: number;
  readonly fileParallelism?: boolean;
}

/** Files that measure memory and time: nothing runs beside them. */
const MEASURING = ['test/integration/fuzz.test.ts'];

const project = (name: string, include: string[], options: Options = {}) => {
  // Generous, because it only ends what hangs: a busy machine is ten times slower.
  const { testTimeout = 60_000 } = options;
  return {
    test: {
      name,
      include,
      setupFiles: ['test/support/file-folder.ts'],
      hookTimeout: testTimeout,
      expect: { poll: { timeout: testTimeout / 2, interval: 10 } },
      ...options,
      testTimeout,
    },
  };
};

export default defineConfig({
  test: {
    globalSetup: ['test/support/run-folder.ts'],
    // Most files wait, for processes that they started or for time to pass: a processor alone would be idle half of the time.
    maxWorkers: Math.max(3, availableParallelism() + 1),
    projects: [
      project('unit', ['src/**/*.test.ts', 'plugins/**/*.test.ts', 'handler/**/*.test.ts', 'test/*.test.ts', 'test/unit/**/*.test.ts']),
      project('conformance', ['test/conformance/**/*.test.ts'], { testTimeout: 240_000 }),
      project('integration', ['test/integration/**/*.test.ts'], { exclude: MEASURING, testTimeout: 180_000 }),
      project('measuring', MEASURING, { testTimeout: 240_000, fileParallelism: false }),
      project('simulation', ['test/simulation/**/*.test.ts'], { testTimeout: 300_000 }),
      project('e2e', ['test/e2e/**/*.test.ts', 'test/package/**/*.test.ts'], { testTimeout: 300_000, fileParallelism: false }),
      {
        test: {
          name: 'types',
          include: [],
          typecheck: { enabled: true, only: true, checker: 'tsc', ignoreSourceErrors: true, include: ['test/types/**/*.test-d.ts'] },
        },
      },
    ],
  },
});
