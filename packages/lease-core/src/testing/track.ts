/** Looks at a promise without waiting for it. */

export interface Tracked<T> {
  readonly promise: Promise<T>
  /** As of now: settle the clock first. */
  readonly state: 'pending' | 'fulfilled' | 'rejected'
  /** What it was fulfilled with. */
  readonly value: T | undefined
  /** What it was rejected with. */
  readonly error: unknown
}

/**
 * Follows a promise while the test goes on. Its rejection is never an unhandled one.
 *
 *     const waiting = track(manager.waitUntilExpired('db'))
 *     await clock.advance(10_000)
 *     expect(waiting.state).to.equal('pending')
 */
export function track<T>(work: PromiseLike<T>): Tracked<T> {
  const promise = Promise.resolve(work)
  const tracked = {
    promise,
    state: 'pending' as Tracked<T>['state'],
    value: undefined as T | undefined,
    error: undefined as unknown,
  }
  promise.then(
    (value) => Object.assign(tracked, { state: 'fulfilled', value }),
    (error: unknown) => Object.assign(tracked, { state: 'rejected', error }),
  )
  return tracked
}
