/** What several workloads do: callers that claim and release until the time is over. */
import type { Contestant, Metric, Sample } from '../bench.ts'
import { quantile } from '../statistics.ts'

/** Leases in a workload whose costs should not grow with them. */
export const growingSizes: readonly number[] = [1_000, 10_000, 100_000]

/** What `pairs` measures. */
export const pairMetrics: readonly [Metric, ...Metric[]] = [
  { name: 'pairs/s', better: 'more' },
  { name: 'p50 ms', better: 'less' },
  { name: 'p99 ms', better: 'less' },
  { name: 'CPU µs/pair', better: 'less' },
]

/**
 * Claim and release, again and again, by that many callers who each have a lease of their own: always the same, or
 * with `freshNames` one that nobody ever claimed before (of those who claim one at a time). Their names begin with the prefix:
 * other processes may have leases of their own in the same namespace. A pair counts when both are done; the time of a pair is what its caller waited for both. CPU is that of this process, not of a server.
 */
export async function pairs(
  contestant: Contestant,
  callers: number,
  seconds: number,
  { freshNames = false, prefix = '' }: { readonly freshNames?: boolean; readonly prefix?: string } = {},
): Promise<Sample> {
  const { one, many } = contestant
  const waitedMs: number[] = []
  const cpu = process.cpuUsage()
  const startMs = performance.now()
  const endMs = startMs + seconds * 1000
  let done = 0

  const again = async (count: number, claim: () => Promise<void>, release: () => Promise<void>): Promise<void> => {
    for (let beganMs = performance.now(); ;) {
      await claim()
      await release()
      const nowMs = performance.now()
      waitedMs.push(nowMs - beganMs)
      done += count
      if (nowMs >= endMs) return
      beganMs = nowMs
    }
  }

  if (one !== undefined) {
    await Promise.all(
      Array.from({ length: callers }, (_, caller) => {
        let lease = `${prefix}caller-${caller}`
        return again(
          1,
          () => {
            if (freshNames) lease = `fresh-${freshlyNamed++}`
            return one.claim(lease)
          },
          () => one.release(lease),
        )
      }),
    )
  } else if (many !== undefined) {
    const lanes = Math.min(many.inFlight, callers)
    const leasesOf = (lane: number): string[] =>
      Array.from({ length: Math.floor((callers + lane) / lanes) }, (_, caller) => `${prefix}lane-${lane}-${caller}`)
    await Promise.all(
      Array.from({ length: lanes }, (_, lane) => {
        const leases = leasesOf(lane)
        return again(
          leases.length,
          () => many.claim(leases),
          () => many.release(leases),
        )
      }),
    )
  }

  const elapsedSeconds = (performance.now() - startMs) / 1000
  const { user, system } = process.cpuUsage(cpu)
  return {
    'pairs/s': done / elapsedSeconds,
    'p50 ms': quantile(waitedMs, 0.5),
    'p99 ms': quantile(waitedMs, 0.99),
    'CPU µs/pair': (user + system) / done,
  }
}

/** Never twice the same, in whatever namespace. */
let freshlyNamed = 0

/** Claims out at once while many leases are taken. */
const WINDOW = 2_000

/** Does it for each index below the count, some thousands at a time. */
export async function inWindows(count: number, body: (index: number) => Promise<void>): Promise<void> {
  for (let from = 0; from < count; from += WINDOW) {
    await Promise.all(Array.from({ length: Math.min(WINDOW, count - from) }, (_, index) => body(from + index)))
  }
}
