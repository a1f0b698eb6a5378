/** Processes whose wall clocks read differently, on a real store. */
import { expect } from 'chai'
import { ErrClaimDenied, Manager, systemClock, type Client, type Clock } from 'lease-core'
import { it } from 'mocha'
import { caught, unique } from './words.ts'

const TEN_YEARS_MS = 10 * 365 * 86_400_000
const LONG_MS = 60_000

/** Declares that no reading of a wall clock matters. The clients have these clocks, and a connection each. */
export function yearsApart(open: (namespace: string, clock: Clock) => Client): void {
  it('that are ten years apart on either side refuse, hand over and take over as if they agreed', async () => {
    const namespace = unique('years')
    const processes = [-TEN_YEARS_MS, TEN_YEARS_MS].map((aheadMs) => {
      const clock: Clock = { ...systemClock, now: () => systemClock.now() + aheadMs }
      const client = open(namespace, clock)
      return { clock, client, manager: new Manager({ client, clock }) }
    })
    const [behind, ahead] = processes as [(typeof processes)[0], (typeof processes)[0]]
    try {
      for (const [mine, theirs] of [
        [behind, ahead],
        [ahead, behind],
      ] as const) {
        const lease = unique('lease')
        const hold = await mine.manager.hold(lease, 'a', { duration: LONG_MS })
        const askedMs = theirs.clock.now()
        expect(await caught(theirs.manager.claim(lease, 'b', LONG_MS))).to.be.instanceOf(ErrClaimDenied)
        const expiry = (await theirs.manager.find(lease))?.expiry.toMillis() ?? Number.NaN
        expect(expiry, 'by the clock of anyone who looks').to.be.within(askedMs, theirs.clock.now() + 1.01 * LONG_MS)
        expect(hold.held).to.equal(true)
        await hold.release()
        const next = await theirs.manager.claim(lease, 'b', 1_000)
        const last = await mine.manager.hold(lease, 'a', { duration: LONG_MS, wait: true }) // once that has lapsed
        const { fencingToken = 0n } = next
        expect(fencingToken > hold.fencingToken && fencingToken < last.fencingToken, 'tokens rise').to.equal(true)
        await last.release()
      }
    } finally {
      for (const { manager, client } of processes) {
        await manager.stop()
        await client.close()
      }
    }
  })
}
