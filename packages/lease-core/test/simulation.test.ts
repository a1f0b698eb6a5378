/**
 * The random tester: what must never be seen, whatever is called and whatever goes wrong. `simulation/simulation.ts` has the list,
 * docs/reliability.md says how to run more of it.
 */
import { expect } from 'chai'
import { runSeeds, seedsFrom } from 'lease-simulation'
import { run } from './simulation/run.ts'
import { settingsOf } from './simulation/settings.ts'
import { tester } from './simulation/tester.ts'

const isMatrix = process.env['LEASE_SUITE'] === 'matrix'
/** CPU time for each set of seeds, in milliseconds: what a slow machine leaves out, another run makes up for. */
const CPU_MS = isMatrix ? 30_000 : 700

describe('simulation', function () {
  if (isMatrix) this.timeout(600_000)

  it('the promises hold for a fixed set of seeds', async () => {
    expect(await runSeeds(tester, seedsFrom(1), { cpuMs: CPU_MS })).to.be.at.least(1)
  })

  it('the promises hold for seeds that have found a defect', async () => {
    const all = [707001273, 804000284, 804000123, 620045447, 620022735, 620036864, 620041963, 630027138, 630040105]
    const seeds = isMatrix ? all : all.slice(0, 3)
    expect(await runSeeds(tester, seeds, { flags: ['no-counted'] })).to.equal(seeds.length)
  })

  it('the promises hold for seeds that nobody has tried', async function () {
    const seed = 1 + Math.floor(Math.random() * 2 ** 30)
    this.test!.title += ` (from ${seed} on)`
    expect(await runSeeds(tester, seedsFrom(seed), { cpuMs: CPU_MS })).to.be.at.least(1)
  })

  it('a run repeats what its seed says, step by step', async () => {
    const settings = settingsOf(42, ['late', 'twice', 'losses'])
    const [first, second] = [await run(settings, { log: true }), await run(settings, { log: true })]
    expect(second.log).to.deep.equal(first.log)
    expect(first.calls).to.be.greaterThan(50)
  })

  it('a run leaves the random numbers of the process as they were', async () => {
    const { random } = Math
    await run(settingsOf(7, [], 20))
    expect(Math.random).to.equal(random)
  })
})
