/** States instead of events: an observer sees what is, and one who is slow passes over what is not any more. */
import type { Info } from './lease.ts'
import type { ParsedObserveOptions } from './options.ts'

/** What the manager does for an observation. */
export interface ObservationKeeper {
  /** @throws ErrNotValid */
  check(): ParsedObserveOptions
  /** Rejects when the signal aborts or the manager stops. */
  call(signal: AbortSignal | undefined, body: () => Promise<void>): Promise<void>
  /** Begins to tell what every look finds, until `fail` or the call of what it returns. */
  enter(tell: (info: Info | undefined) => void, fail: (error: unknown) => void): () => void
}

/** Yields the present state, and then each that differs from the one yielded last. */
export async function* observation(keeper: ObservationKeeper): AsyncGenerator<Info | undefined, never, void> {
  const { signal, renewals } = keeper.check()
  let latest: State | undefined
  let failed: { readonly error: unknown } | undefined
  let wake = (): void => {}
  const news = (): Promise<void> =>
    new Promise((resolve) => {
      wake = resolve
      if (latest !== undefined || failed !== undefined) resolve()
    })
  await keeper.call(signal, () => Promise.resolve())
  const leave = keeper.enter(
    (info) => {
      latest = { info }
      wake()
    },
    (error) => {
      failed = { error }
      wake()
    },
  )
  try {
    for (let told: State | undefined; ;) {
      await keeper.call(signal, news)
      if (failed !== undefined) throw failed.error
      const found: State | undefined = latest
      latest = undefined
      if (found === undefined || (told !== undefined && !differs(told.info, found.info, renewals))) continue
      told = found
      yield found.info
    }
  } finally {
    leave()
  }
}

interface State {
  readonly info: Info | undefined
}

/** Whether an observer is to be told. */
function differs(before: Info | undefined, after: Info | undefined, renewals: boolean): boolean {
  if (before === undefined || after === undefined) return before !== after
  return (
    before.fencingToken !== after.fencingToken ||
    before.holder !== after.holder ||
    before.value !== after.value ||
    before.pinned !== after.pinned ||
    (renewals && after.expiry.toMillis() > before.expiry.toMillis())
  )
}
