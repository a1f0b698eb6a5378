import { runInNewContext } from 'node:vm'
import { expect } from 'chai'
import { ErrNotValid } from 'lease-core'
import { Emitter } from '#src/emitter.ts'
import { unhandledDuring } from './bench.ts'

interface Events {
  step: [number]
  error: [unknown]
}

class Steps extends Emitter<Events> {
  take(step: number): void {
    this.emit('step', step)
  }

  fail(error: unknown): void {
    this.emit('error', error)
  }
}

const delivered = (): Promise<void> => Promise.resolve()

describe('Emitter', () => {
  it('tells in order, all of it, after the transition is complete', async () => {
    const steps = new Steps()
    const told: number[] = []
    steps.on('step', (step) => {
      if (step === 1) steps.take(4) // from within a listener: its turn comes after the others'
      told.push(step)
    })
    steps.take(1)
    steps.take(2)
    steps.take(3)
    expect(told).to.deep.equal([])
    await delivered()
    await delivered()
    expect(told).to.deep.equal([1, 2, 3, 4])
  })

  it('once is once, also when the listener causes the next', async () => {
    const steps = new Steps()
    const told: number[] = []
    steps.once('step', (step) => {
      told.push(step)
      steps.take(step + 1)
    })
    steps.take(1)
    steps.take(5)
    await delivered()
    await delivered()
    expect(told).to.deep.equal([1])
  })

  it('anyone who was taken off is not called any more, not even for what was on its way', async () => {
    const steps = new Steps()
    const told: string[] = []
    const second = (step: number): number => told.push(`second ${step}`)
    steps.on('step', (step) => {
      told.push(`first ${step}`)
      steps.off('step', second)
    })
    steps.on('step', second).on('step', second)
    steps.take(1)
    steps.take(2)
    await delivered()
    expect(told).to.deep.equal(['first 1', 'second 1', 'first 2'])
    steps.off('step', () => {}).off('error', () => {})
  })

  it('what is no function is refused as a listener at once, and not when the event comes', () => {
    const steps = new Steps()
    for (const listener of [undefined, null, 5, 'told', {}] as never[]) {
      for (const add of [() => steps.on('step', listener), () => steps.once('step', listener)]) {
        expect(add).to.throw(ErrNotValid, 'listener must be a function')
      }
    }
  })

  it('an error that nobody listens to ends nothing', async () => {
    const steps = new Steps()
    steps.fail(new Error('unheard'))
    await delivered()
    const heard: unknown[] = []
    steps.on('error', (error) => heard.push(error))
    steps.fail('now')
    await delivered()
    expect(heard).to.deep.equal(['now'])
  })

  it('a listener that throws or rejects with what has no words harms nobody, and becomes a warning', async () => {
    const steps = new Steps()
    const warnings: Error[] = []
    const onWarning = (warning: Error): void => void warnings.push(warning)
    process.on('warning', onWarning)
    const wordless: unknown = Object.create(null)
    let told = 0
    steps.on('step', () => {
      throw wordless
    })
    // oxlint-disable-next-line prefer-promise-reject-errors -- a listener may reject with anything
    steps.on('step', () => Promise.reject(wordless))
    steps.on('step', () => told++)
    steps.take(1)
    await new Promise((resolve) => setImmediate(resolve))
    process.off('warning', onWarning)
    expect(told).to.equal(1)
    expect(warnings.map(({ name }) => name)).to.deep.equal(['LeaseListenerWarning', 'LeaseListenerWarning'])
  })

  it('a promise of another realm that rejects, as under jsdom, becomes a warning', async () => {
    const steps = new Steps()
    const warnings: Error[] = []
    const onWarning = (warning: Error): void => void warnings.push(warning)
    process.on('warning', onWarning)
    const unhandled = await unhandledDuring(async () => {
      steps.on('step', () => runInNewContext('Promise.reject(new Error("theirs"))') as unknown)
      steps.take(1)
      await new Promise((resolve) => setImmediate(resolve))
    })
    process.off('warning', onWarning)
    expect([unhandled, warnings.length]).to.deep.equal([[], 1])
  })
})
