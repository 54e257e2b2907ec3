/**
 * Runs `work` over the list, at most `limit` at a time; results in order. After a failure nothing more is begun; what runs is waited for, so
 * that nothing happens any more when it rejects with that first failure.
 */
export async function mapLimited<T, R>(list: readonly T[], limit: number, work: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  const rest = list.entries();
  let failed: { readonly error: unknown } | undefined;
  const lane = async (): Promise<void> => {
    for (const [index, item] of rest) {
      if (failed) return;
      try {
        results[index] = await work(item);
      } catch (error) {
        failed ??= { error };
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(limit, list.length) }, lane));
  if (failed) throw failed.error;
  return results;
}
