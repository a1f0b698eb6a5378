/** How a decorated method finds the module: Nest puts it into a property of each instance. */
import { Inject } from '@nestjs/common'
import type { Works } from './works.ts'

/** Nest shows it where the module is missing, so it names the fix. */
export const WORKS: unique symbol = Symbol('lease-nestjs: import LeaseModule.forRoot({ client }) in the root module')

/** The property. Registered, so that two copies of this package share it. */
const PROPERTY = Symbol.for('lease-nestjs.works')

/** Lets Nest put the module into instances of the class of this prototype. */
export function injectWorks(prototype: object): void {
  injectOnce(prototype, PROPERTY, WORKS)
}

/** Once for each class, however many of its methods are decorated. */
export function injectOnce(prototype: object, property: symbol, token: string | symbol | Function): void {
  if (Object.hasOwn(prototype, property)) return
  Object.defineProperty(prototype, property, { value: undefined, writable: true, configurable: true })
  Inject(token)(prototype, property)
}

/** @throws Error this instance was not made by Nest */
export function worksOf(instance: object): Works {
  const works = (instance as { readonly [PROPERTY]?: Works })[PROPERTY]
  if (works !== undefined) return works
  throw new Error(
    `this ${instance.constructor.name} was not made by Nest, so its methods have no leases: let Nest make it, in a test with LeaseModule.forRoot({ manager: new FakeLeases().manager })`,
  )
}
