// Types for `python -m tests.script_types`: what Gradio gives to the script of a component.
declare const element: any;
declare const props: any;
declare const server: any;
declare function watch(name: string, act: () => void): void;
declare function trigger(name: string, data?: any): void;
declare function upload(file: File): Promise<{ path: string }>;

// The scripts know which kind of node a selector finds.
interface ParentNode {
  querySelector(selectors: string): any;
  querySelectorAll(selectors: string): NodeListOf<any>;
}
interface Document {
  readonly activeElement: any;
}
