/** What an adapter of the library sends: so that who sends the same by hand never falls behind it. */
import type { Call, Holding, Op, Substrate } from 'lease-core/adapter'

/** A call that says nothing about time: the store executes it whenever it comes. */
export const timelessCall: Call = {
  signal: new AbortController().signal,
  timeoutMs: 5_000,
  client: 'bench',
  epoch: 0,
  sentMs: undefined,
  notAfterMs: undefined,
}

/** The one lease of the recording. */
export const specimen = { lease: 'a-lease', holder: 'a-holder', nonce: 'a-nonce' } as const

export type Kind = 'claim' | 'extend' | 'release'

/** The last request of one operation, and the term that it was about. */
export interface Recorded<Request> {
  readonly request: Request
  /** '' before there is a term. */
  readonly fencingToken: string
  /** '' where the store has a clock. */
  readonly version: string
}

/**
 * Has a substrate claim, extend and release one lease. `make` makes it, so that it puts each request into the list. The
 * lease is extended twice: only then is the version another than the fencing token, where there is one.
 *
 * @throws Error when one of them is not granted
 */
export async function record<Request>(
  make: (sent: Request[]) => Substrate,
  durationMs: number,
): Promise<Record<Kind, Recorded<Request>>> {
  const sent: Request[] = []
  const substrate = make(sent)
  let seen: Holding | undefined
  const apply = async (op: Op): Promise<Recorded<Request>> => {
    const before = { fencingToken: String(seen?.fencingToken ?? ''), version: seen?.version ?? '' }
    const [verdict] = await substrate.apply([op], timelessCall)
    const request = sent.at(-1)
    sent.length = 0
    if (verdict?.outcome !== 'granted' || request === undefined) throw new Error(`${op.kind}: ${verdict?.outcome}`)
    seen = verdict.holding
    return { request, ...before }
  }
  const { lease, holder, nonce } = specimen
  const value = undefined
  const extend = (): Promise<Recorded<Request>> =>
    apply({ kind: 'extend', lease, holder, fencingToken: seen?.fencingToken ?? 0n, durationMs, value, seen })
  try {
    const claim = await apply({ kind: 'claim', lease, holder, durationMs, nonce, value, lapsed: undefined })
    await extend()
    return {
      claim,
      extend: await extend(),
      release: await apply({
        kind: 'release',
        lease,
        holder,
        fencingToken: seen?.fencingToken,
        nonce,
        seen,
      }),
    }
  } finally {
    await substrate.close()
  }
}
