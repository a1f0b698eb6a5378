/// <reference types="reflect-metadata" />
/** What the decorators have in common. */
import { notValid } from 'lease-core'

/** A method with any arguments, as Nest calls it. */
export type Method<Args extends readonly unknown[] = readonly unknown[], T = unknown> = (...args: Args) => Promise<T>

/**
 * Replaces the method by what `around` makes of a call. What other decorators have noted on the method stays with it, so their order
 * does not matter.
 */
export function decorate(
  target: object,
  key: string | symbol,
  descriptor: PropertyDescriptor,
  around: (instance: object, args: readonly unknown[], method: () => Promise<unknown>) => Promise<unknown>,
): void {
  if (typeof descriptor !== 'object' || descriptor === null) {
    const rule = 'must be decorated as Nest does it: set "experimentalDecorators": true in tsconfig.json'
    throw notValid([{ argument: 'method', rule, value: target }])
  }
  const method: unknown = descriptor.value
  if (typeof target === 'function' || typeof method !== 'function') {
    const rule = 'must be an ordinary method: a static one, or an accessor, has no instance that Nest makes'
    throw notValid([{ argument: String(key), rule, value: method }])
  }
  /** With the `this` of the call; async, so that it never throws. */
  async function decorated(this: object, ...args: unknown[]): Promise<unknown> {
    return around(this, args, async () => Reflect.apply(method as Method, this, args))
  }
  Object.defineProperty(decorated, 'name', { value: method.name })
  for (const name of Reflect.getMetadataKeys(method)) {
    Reflect.defineMetadata(name, Reflect.getMetadata(name, method), decorated)
  }
  descriptor.value = decorated
}
