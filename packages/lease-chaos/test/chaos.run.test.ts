import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'chai'
import { enough, isMatrix } from 'lease-servers'
import { judge } from '#src/chaos/checks/index.ts'
import { runControls } from '#src/chaos/controls.ts'
import { readHistory } from '#src/chaos/history.ts'
import { run } from '#src/chaos/run.ts'
import type { Ground } from '#src/ground.ts'
import { openGround } from '#src/grounds/index.ts'
import { nemesesOf } from '#src/nemeses/index.ts'

const SEED = 20_260_101
const FAULTS_MINUTES = enough(10) / 60
const NEMESES = ['none', 'stop-short', 'kill-worker', 'cut-connections']

describe('a chaos run on redis', function () {
  this.timeout(enough(600_000)) // processes are slow to start on a busy machine
  const { signal } = new AbortController()
  const report = (): void => {}
  let folder: string
  let ground: Ground
  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'chaos-'))
    ground = await openGround('redis', { namespace: 'chaos' })
  })
  after(async () => {
    await ground[Symbol.asyncDispose]()
    rmSync(folder, { recursive: true })
  })

  // The matrix: a run starts eight processes, and lasts as long as its faults. The races of processes are in the test command.
  if (!isMatrix()) return

  it('goes through all phases, and its history has no violation', async () => {
    const nemeses = nemesesOf(ground, NEMESES)
    await run({ ground, nemeses, folder, seed: SEED, minutes: FAULTS_MINUTES, workers: 3, signal, report })
    const history = await readHistory(folder)
    const phases = history.events.flatMap(({ what, detail }) => (what === 'phase' ? detail : []))
    expect(phases).to.deep.equal(['warm-up', 'faults', 'quiet', 'end', 'stored'])
    const { violations, figures } = judge(history)
    expect(violations).to.deep.equal([])
    expect(figures.faults).to.be.at.least(1)
    expect(figures.terms).to.be.at.least(30)
    expect(history.settings).to.deep.include({ ground: 'redis', seed: SEED, nemeses: NEMESES })
  })

  it('sees each promise that workers break on purpose', async () => {
    const { nemeses, ...rest } = ground
    const withoutClock = { ...rest, nemeses: nemeses.filter(({ name }) => name === 'stop-short') }
    const results = await runControls({ ground: withoutClock, seed: SEED, signal, report }, (name) =>
      join(folder, name),
    )
    expect(results.map(({ name, isFound }) => ({ name, isFound }))).to.deep.equal([
      { name: 'guard-off', isFound: true },
      { name: 'reply-trust', isFound: true },
      { name: 'nameless-release', isFound: true },
    ])
  })

  it('ends in order when it is interrupted, and keeps what was recorded', async () => {
    const interrupt = new AbortController()
    const interrupted = join(folder, 'interrupted')
    const nemeses = nemesesOf(ground, ['none'])
    const stop = (line: string): void => {
      if (line.includes('faults')) interrupt.abort(new Error('enough'))
    }
    const options = { ground, nemeses, seed: SEED, minutes: 600, workers: 1, signal: interrupt.signal, report: stop }
    await run({ ...options, folder: interrupted })
    const { events, damage } = await readHistory(interrupted)
    expect(damage).to.deep.equal([])
    const phases = events.flatMap(({ what, detail }) => (what === 'phase' ? detail : []))
    expect(phases).to.deep.equal(['warm-up', 'faults', 'interrupted', 'stored'])
    expect(events.some(({ what }) => what === 'answered')).to.equal(true)
  })
})
