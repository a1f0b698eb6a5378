/**
 * The random tester of the recipes: what must never be seen, whatever is called and whatever goes wrong. `simulation/world.ts` has the
 * list, docs/reliability.md says how to run more of it.
 */
import { expect } from 'chai'
import { isMatrix } from 'lease-servers'
import { shrink } from 'lease-simulation'
import { run } from './simulation/run.ts'
import { settingsOf } from './simulation/settings.ts'

/** CPU time for each set of seeds, in milliseconds: what a slow machine leaves out, another run makes up for. */
const CPU_MS = isMatrix() ? 60_000 : 3_000

/** Runs one seed after the other until the time is used up; the first that fails is shrunk and shown. */
async function simulate(seeds: Iterable<number>, cpuMs: number): Promise<number> {
  const before = process.cpuUsage()
  let runs = 0
  for (const seed of seeds) {
    const settings = settingsOf(seed)
    const [problem] = (await run(settings)).problems
    if (problem !== undefined) {
      const { rule, what } = problem
      const { result } = await shrink({ rule, steps: settings.steps, rerun: (options) => run(settings, options) })
      const again = `npx -y pnpm@10 simulate:recipes --seeds ${seed} --log`
      expect.fail([`seed ${seed}: ${rule}: ${what}`, ...result.log.slice(-40), again].join('\n'))
    }
    runs++
    const { user, system } = process.cpuUsage(before)
    if ((user + system) / 1000 > cpuMs) break
  }
  return runs
}

function* from(seed: number): Generator<number> {
  for (;;) yield seed++
}

describe('simulation of the recipes', function () {
  if (isMatrix()) this.timeout(600_000)

  it('the promises hold for a fixed set of seeds', async () => {
    expect(await simulate(from(1), CPU_MS)).to.be.at.least(1)
  })

  it('the promises hold for seeds that have found a defect', async () => {
    const seeds = [2, 3] // a share that was granted to a call in the moment in which it was given up
    expect(await simulate(seeds, Number.POSITIVE_INFINITY)).to.equal(seeds.length)
  })

  it('the promises hold for seeds that nobody has tried', async function () {
    const seed = 1 + Math.floor(Math.random() * 2 ** 30)
    this.test!.title += ` (from ${seed} on)`
    expect(await simulate(from(seed), CPU_MS)).to.be.at.least(1)
  })

  it('a run repeats what its seed says, step by step', async () => {
    const settings = settingsOf(42, ['late', 'losses'], 60)
    const [first, second] = [await run(settings, { log: true }), await run(settings, { log: true })]
    expect(second.log.map(withoutNames)).to.deep.equal(first.log.map(withoutNames))
    expect(first.calls).to.be.greaterThan(50)
  })
})

/**
 * Without the times, which differ by fractions of a millisecond, and without the words of errors: holders have names that nobody else
 * has, in no two runs.
 */
function withoutNames(line: string): string {
  return line.replace(/[A-Z]+_[A-Z_]+: .* ←/, '←').replace(/^ *[\d.]+ /, '')
}
