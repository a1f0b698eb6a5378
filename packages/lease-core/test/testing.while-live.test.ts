import { expect } from 'chai'
import { describe, it } from 'mocha'
import { TestClock, whileLive } from '#src/testing/index.ts'

describe('whileLive', () => {
  it('gives the outcome of an attempt that was in time', async () => {
    const clock = new TestClock()
    const attempts: number[] = []
    const outcome = await whileLive(100, async (durationMs) => attempts.push(durationMs), clock)
    expect(outcome).to.equal(1)
    expect(attempts).to.deep.equal([100])
  })

  it('repeats an attempt that came too late with twice the duration, whether it resolved or rejected', async () => {
    const clock = new TestClock()
    const attempts: number[] = []
    const outcome = await whileLive(
      100,
      async (durationMs) => {
        attempts.push(durationMs)
        if (attempts.length < 3) await clock.advance(durationMs)
        if (attempts.length === 2) throw new Error('too late')
        return 'in time'
      },
      clock,
    )
    expect(outcome).to.equal('in time')
    expect(attempts).to.deep.equal([100, 200, 400])
  })

  it('throws what an attempt in time rejected with', async () => {
    const clock = new TestClock()
    const failure = new Error('wrong')
    let thrown: unknown
    await whileLive(100, async () => Promise.reject(failure), clock).catch((error: unknown) => (thrown = error))
    expect(thrown).to.equal(failure)
  })

  it('counts an attempt that lasts as long as the holder may rely on the lease as too late', async () => {
    const clock = new TestClock()
    const attempts: number[] = []
    await whileLive(
      1_000,
      async (durationMs) => {
        attempts.push(durationMs)
        await clock.advance(attempts.length === 1 ? 998 : 997)
      },
      clock,
    )
    expect(attempts).to.deep.equal([1_000, 2_000])
  })

  it('ends, with an error, when every attempt is too late', async () => {
    const clock = new TestClock()
    let error: unknown
    await whileLive(10, async (durationMs) => clock.advance(durationMs), clock).catch(
      (thrown: unknown) => (error = thrown),
    )
    expect(error)
      .to.be.an.instanceOf(Error)
      .with.property('message')
      .that.matches(/no attempt was in time/)
  })
})
