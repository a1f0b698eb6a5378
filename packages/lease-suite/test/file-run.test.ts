import { expect } from 'chai'
import { fileURLToPath } from 'node:url'
import { type FileOptions, type FileResult, runFile } from '#src/file-run.ts'
import type { Part } from '#src/protocol.ts'

interface How {
  readonly part?: Part
  readonly exclude?: RegExp
  readonly options?: Partial<FileOptions>
}

/** Runs a file of `fixtures`. */
async function run(name: string, { part, exclude, options }: How = {}): Promise<FileResult> {
  const built = fileURLToPath(new URL(`../.test-js/fixtures/${name}.js`, import.meta.url))
  const file = { path: name, built, part, exclude, title: name, expectedMs: 0 }
  const signal = new AbortController().signal
  return await runFile(file, { timeoutMs: 60_000, signal, targets: async () => '{}', ...options })
}

function states({ outcomes }: FileResult): Record<string, string> {
  return Object.fromEntries(outcomes.map(({ path, state }) => [path.join(' › '), state]))
}

describe('the run of a test file', () => {
  it('reports every outcome, with bigints, unheard rejections and what was awaited', async () => {
    const result = await run('outcomes')
    expect(states(result)).to.deep.equal({
      'first › passes': 'passed',
      'first › fails with bigints': 'failed',
      'first › is skipped': 'skipped',
      'second › rejects unheard › (unhandled rejection)': 'failed',
      'second › rejects unheard': 'passed',
      'second › waits in vain': 'failed',
      'third › passes as well': 'passed',
    })
    const failure = (title: string): string =>
      result.outcomes.find(({ path }) => path.join(' › ') === title)?.failure ?? ''
    expect(failure('first › fails with bigints')).to.contain('-  "token": "1"').and.contain('+  "token": "2"')
    expect(failure('second › rejects unheard › (unhandled rejection)')).to.contain('on purpose')
    expect(failure('second › waits in vain')).to.contain('waiting for the end of time (last seen: 0)')
  })

  it('takes one top-level suite, or it and all later ones', async () => {
    const first = await run('outcomes', { part: { index: 0, last: false } })
    const rest = await run('outcomes', { part: { index: 1, last: true } })
    expect(Object.keys(states(first)).map((title) => title.split(' › ')[0])).to.deep.equal(['first', 'first', 'first'])
    expect(new Set(Object.keys(states(rest)).map((title) => title.split(' › ')[0]))).to.deep.equal(
      new Set(['second', 'third']),
    )
    expect(first.suitesMs).to.have.length(1)
    expect(rest.suitesMs).to.have.length(2)
  })

  it('leaves out suites by their titles', async () => {
    expect(states(await run('outcomes', { exclude: /first|second/ }))).to.deep.equal({
      'third › passes as well': 'passed',
    })
  })

  it('says whether a grep has matched', async () => {
    const some = await run('outcomes', { options: { grep: /third passes/ } })
    expect(states(some)).to.deep.equal({ 'third › passes as well': 'passed' })
    expect(some.matched).to.equal(true)
    const none = await run('outcomes', { options: { grep: /nothing is called so/ } })
    expect(none.outcomes).to.deep.equal([])
    expect(none.matched).to.equal(false)
  })

  it('fails when the process ends before its tests do, and says after which', async () => {
    const { outcomes } = await run('crash')
    expect(outcomes.map(({ state }) => state)).to.deep.equal(['passed', 'failed'])
    expect(outcomes[1]?.failure).to.contain('code 3').and.contain('comes after this')
  })

  it('fails when the file cannot be loaded, and says why', async () => {
    const { outcomes } = await run('broken')
    expect(outcomes.map(({ state }) => state)).to.deep.equal(['failed'])
    expect(outcomes[0]?.failure).to.contain('on purpose')
  })

  it('asks for the servers that the file uses, and lets it reach them', async () => {
    const asked: (readonly string[])[] = []
    const targets = async (names: readonly string[]): Promise<string> => {
      asked.push(names)
      return JSON.stringify({ [names[0] ?? '']: { url: 'redis://somewhere' } })
    }
    // With REDIS_URL the server has another name, and is found all the same.
    const result = await run('servers', { options: { targets } })
    expect(asked).to.have.length(1)
    expect(result.output).to.contain('redis://somewhere')
  })

  it('rejects with the reason when a server cannot be had', async () => {
    let error: unknown
    const targets = async (): Promise<string> => Promise.reject(new Error('no such server'))
    await run('servers', { options: { targets } }).catch((thrown: unknown) => (error = thrown))
    expect(error).to.be.an.instanceOf(Error).with.property('message', 'no such server')
  })
})
