/** A test runner in miniature: runs the kit and keeps the outcome of every clause. */
import type { Runner, TestFunction } from '#src/conformance/index.ts'

export interface Outcome {
  /** Suite and clause. */
  readonly title: string
  readonly outcome: 'passed' | 'failed' | 'skipped'
  readonly error: unknown
}

interface Suite {
  readonly title: string
  readonly before: (() => Promise<void>)[]
  readonly after: (() => Promise<void>)[]
  readonly tests: { readonly title: string; readonly body: (() => Promise<void>) | undefined }[]
}

/** Collects what a kit declares, then runs it in order. */
export class Collector implements Runner {
  readonly #suites: Suite[] = []
  readonly #open: Suite[] = []
  readonly #begin: () => void

  /** @param begin called before each test */
  constructor(begin: () => void = () => {}) {
    this.#begin = begin
  }

  readonly describe = (title: string, body: () => void): void => {
    const suite: Suite = { title, before: [], after: [], tests: [] }
    this.#suites.push(suite)
    this.#open.push(suite)
    body()
    this.#open.pop()
  }

  readonly it: TestFunction = Object.assign(
    (title: string, body: () => Promise<void>) => void this.#current.tests.push({ title, body }),
    { skip: (title: string) => void this.#current.tests.push({ title, body: undefined }) },
  )

  readonly before = (body: () => Promise<void>): void => void this.#current.before.push(body)
  readonly after = (body: () => Promise<void>): void => void this.#current.after.push(body)

  /** Of every clause, in order. */
  get titles(): readonly string[] {
    return this.#suites.flatMap((suite) => suite.tests.map(({ title }) => `${suite.title}: ${title}`))
  }

  /** @param titles of the tests to run, as a runner with a filter does. @default all */
  async run(titles: readonly string[] = this.titles): Promise<readonly Outcome[]> {
    const outcomes: Outcome[] = []
    for (const suite of this.#suites) {
      const wanted = suite.tests.filter(({ title }) => titles.includes(`${suite.title}: ${title}`))
      if (wanted.length === 0) continue
      for (const hook of suite.before) await hook()
      for (const { title, body } of wanted) {
        this.#begin()
        outcomes.push(await outcomeOf(`${suite.title}: ${title}`, body))
      }
      for (const hook of suite.after) await hook()
    }
    return outcomes
  }

  get #current(): Suite {
    const suite = this.#open.at(-1)
    if (suite === undefined) throw new Error('outside of describe')
    return suite
  }
}

async function outcomeOf(title: string, body: (() => Promise<void>) | undefined): Promise<Outcome> {
  if (body === undefined) return { title, outcome: 'skipped', error: undefined }
  try {
    await body()
    return { title, outcome: 'passed', error: undefined }
  } catch (error) {
    return { title, outcome: 'failed', error }
  }
}
