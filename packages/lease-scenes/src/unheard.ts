/** Promises that are rejected and that nobody listens to. */
import { expect } from 'chai'
import { after, before } from 'mocha'
import { sleep } from './words.ts'

/** Collects the reasons of what is rejected unheard, until it is stopped. */
export function hearUnheard(): { readonly reasons: readonly unknown[]; readonly stop: () => void } {
  const reasons: unknown[] = []
  const onUnheard = (reason: unknown): void => void reasons.push(reason)
  process.on('unhandledRejection', onUnheard)
  return { reasons, stop: () => void process.off('unhandledRejection', onUnheard) }
}

/** Whatever is rejected unheard while the body runs. */
export async function unheard(body: () => Promise<void>): Promise<readonly unknown[]> {
  const { reasons, stop } = hearUnheard()
  try {
    await body()
    await sleep(10)
  } finally {
    stop()
  }
  return reasons
}

/** Declares that nothing is rejected unheard from the first test to the last. */
export function noneUnheard(): void {
  let heard: ReturnType<typeof hearUnheard>
  before(() => {
    heard = hearUnheard()
  })
  after(() => {
    heard.stop()
    expect(heard.reasons).to.deep.equal([])
  })
}
