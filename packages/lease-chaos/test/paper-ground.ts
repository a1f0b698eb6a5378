/** A ground without servers: for what only looks at its nemeses. */
import type { Ground, Nemesis } from 'lease-chaos'

export function opened(nemeses: readonly Nemesis[], leftOut: Ground['leftOut'] = []): Ground {
  const judge = { kind: 'redis', url: '', namespace: 'paper' } as const
  return { name: 'redis', nemeses, leftOut, judge, reach: async () => judge, [Symbol.asyncDispose]: async () => {} }
}
