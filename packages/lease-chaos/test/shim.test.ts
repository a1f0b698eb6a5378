import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { expect } from 'chai'
import { nowMs } from 'lease-chaos'
import { isMatrix, nodeOptions } from 'lease-servers'
import { driftAt, encodeControl, decodeControl, trueTime } from '#src/machine-clock.ts'
import { Shim } from '#src/shim.ts'

/** What a process under this shim reads of its clocks, between two readings of ours. */
async function clocksUnder(env: Readonly<Record<string, string>>): Promise<Readonly<Record<string, number>>> {
  const recorder = new URL('../src/recorder.ts', import.meta.url).href
  const text = `const { nowMs } = await import(${JSON.stringify(recorder)})
    const monotonicMs = Number(process.hrtime.bigint()) / 1e6
    console.log(JSON.stringify({ monotonicMs, trueMs: nowMs(), wallMs: Date.now(), laterMs: performance.now() }))`
  const args = [...nodeOptions('x.ts'), '--input-type=module', '--eval', text]
  const fromMs = nowMs()
  const fromWallMs = Date.now()
  const { stdout } = await promisify(execFile)(process.execPath, args, { env: { ...process.env, ...env } })
  return { ...JSON.parse(stdout), fromMs, toMs: nowMs(), fromWallMs, toWallMs: Date.now() }
}

const matrixOnly = isMatrix() ? it : it.skip // each starts a process

describe('the shim for clocks', function () {
  let shim: Shim | undefined

  before(async function () {
    if (process.platform !== 'linux') this.skip()
    shim = await Shim.open().catch((error: unknown) => {
      if (String(error).includes('there is no cc')) return undefined
      throw error
    })
    if (shim === undefined) this.skip()
  })

  after(async () => shim?.close())

  matrixOnly('moves the wall clock of a process only', async () => {
    const own = shim?.control()
    if (own === undefined) throw new Error('no shim')
    own.wallMs = -3_600_000
    const clocks = await clocksUnder(own.env)
    own.close()
    expect(Number(clocks['wallMs']) + 3_600_000).to.be.within(
      Number(clocks['fromWallMs']) - 1,
      Number(clocks['toWallMs']) + 1,
    )
    expect(clocks['monotonicMs']).to.be.within(Number(clocks['fromMs']), Number(clocks['toMs']))
  })

  it('lets both clocks run fast, and records stay on the clock of the machine', async () => {
    const own = shim?.control()
    if (own === undefined) throw new Error('no shim')
    own.rate = 1000 // in the time that a process takes to start, far away from the machine's
    const clocks = await clocksUnder(own.env)
    own.close()
    expect(clocks['monotonicMs']).to.be.greaterThan(Number(clocks['toMs']))
    expect(clocks['trueMs']).to.be.within(Number(clocks['fromMs']), Number(clocks['toMs']))
    expect(clocks['wallMs']).to.be.greaterThan(Number(clocks['toWallMs']))
  })

  matrixOnly('does nothing at first', async () => {
    const own = shim?.control()
    if (own === undefined) throw new Error('no shim')
    const clocks = await clocksUnder(own.env)
    own.close()
    for (const name of ['monotonicMs', 'trueMs']) {
      expect(clocks[name]).to.be.within(Number(clocks['fromMs']), Number(clocks['toMs']))
    }
  })

  it('says in one line what it needs when there is no compiler', async () => {
    const error: unknown = await Shim.open('no-such-compiler').catch((error: unknown) => error)
    expect(String(error)).to.equal(
      'Error: the shim for clocks and fsync needs a C compiler: there is no no-such-compiler',
    )
  })

  it('has a file that says the same to C and to the recorder, and a drift that can be undone', () => {
    for (const rate of [-0.03, -0.0005, 0, 0.0005, 0.03]) {
      const control = { seq: 4n, wallNs: -5n, sinceNs: 1_000_000_000n, driftNs: 77_000n, rate, fsyncNs: 9n }
      expect(decodeControl(encodeControl(control))).to.deep.equal(control)
      const trueNs = 61_234_567_891n
      const shownNs = trueNs + driftAt(control, trueNs)
      expect(Number(trueTime(control, shownNs) - trueNs)).to.be.within(-10, 10)
    }
  })
})
