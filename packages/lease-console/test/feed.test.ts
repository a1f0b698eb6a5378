/** One reader for many viewers: when it reads, what it keeps, and what it says is wrong. */
import { expect } from 'chai'
import { TestClock, track } from 'lease-core/testing'
import { Feed } from '#src/feed.ts'

const POLL_MS = 2_000

describe('a feed', () => {
  let clock: TestClock
  let reads: number
  /** What the next reads do. */
  let read: () => Promise<string>
  let hint: (() => void) | undefined
  let feed: Feed<string>
  beforeEach(() => {
    clock = new TestClock()
    reads = 0
    read = async () => `state ${reads}`
    hint = undefined
    feed = new Feed({
      clock,
      pollEveryMs: POLL_MS,
      read: () => {
        reads++
        return read()
      },
      hints: (changed) => {
        hint = changed
        return () => (hint = undefined)
      },
    })
  })

  /** Takes so long. */
  const slowly = (ms: number) => (): Promise<string> =>
    new Promise((resolve) => void clock.setTimer(ms, () => resolve(`state ${reads}`)))
  const fails = (): Promise<string> => Promise.reject(new Error('down'))

  it('reads while somebody watches, listens to hints as long, and neither afterwards', async () => {
    const leave = [feed.watch(() => {}), feed.watch(() => {})]
    await clock.advance(3 * POLL_MS)
    expect(reads).to.equal(4)
    leave[0]?.()
    expect(hint).to.be.a('function')
    leave[1]?.()
    expect(hint).to.equal(undefined)
    await clock.advance(10 * POLL_MS)
    expect([reads, feed.isWatched]).to.deep.equal([4, false])
    // A read that ends after the last watcher has left is the last one, too.
    read = slowly(500)
    const end = feed.watch(() => {})
    end()
    await clock.advance(10 * POLL_MS)
    expect(reads).to.equal(5)
  })

  it('keeps the last state and its time when a read fails, and forgets what was wrong with the next', async () => {
    const end = feed.watch(() => {})
    await clock.settle()
    const readMs = clock.now()
    read = fails
    await clock.advance(POLL_MS)
    expect(feed.known).to.deep.equal({ state: 'state 1', readMs, trouble: 'down' })
    read = async () => 'back'
    await clock.advance(POLL_MS)
    expect(feed.known).to.deep.equal({ state: 'back', readMs: clock.now(), trouble: undefined })
    end()
  })

  it('says after three seconds that the store has not answered, and answers a request with that', async () => {
    read = () => new Promise(() => {})
    const latest = track(feed.latest())
    await clock.advance(2_999)
    expect([latest.state, feed.known.trouble]).to.deep.equal(['pending', undefined])
    await clock.advance(1)
    expect((await latest.promise).trouble).to.equal('the store has not answered yet')
  })

  it('answers a request by what it has read within the pause, and reads for a later one, or after trouble', async () => {
    expect((await feed.latest()).state).to.equal('state 1')
    await clock.advance(POLL_MS - 1)
    expect((await feed.latest()).state).to.equal('state 1')
    await clock.advance(1)
    expect((await feed.latest()).state).to.equal('state 2')
    read = fails
    await clock.advance(POLL_MS)
    expect((await feed.latest()).trouble).to.equal('down')
    read = async () => 'back'
    expect((await feed.latest()).state).to.equal('back')
  })

  it('reads at once on a hint, and again after the read that the hint has met', async () => {
    read = slowly(100)
    const end = feed.watch(() => {})
    await clock.advance(50)
    hint?.()
    expect(reads).to.equal(1)
    await clock.advance(51)
    await clock.advance(100)
    expect([reads, feed.known.state]).to.deep.equal([2, 'state 2'])
    await clock.advance(500)
    hint?.()
    expect(reads).to.equal(3)
    end()
  })

  it('pauses nine times as long as a read took, and half a minute at most', async () => {
    read = slowly(1_000)
    const end = feed.watch(() => {})
    await clock.advance(1_000)
    await clock.advance(8_999)
    expect(reads).to.equal(1)
    read = slowly(10_000)
    await clock.advance(1)
    expect(reads).to.equal(2)
    await clock.advance(10_000)
    await clock.advance(29_999)
    expect(reads).to.equal(2)
    await clock.advance(1)
    expect(reads).to.equal(3)
    end()
  })
})
